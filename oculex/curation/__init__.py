"""Data-making: a pipeline's samples written down as Parquet shards, by one machine or by a cluster."""

from oculex.curation.engine import curate

__all__ = ["curate"]
