"""Scene graphs: what is in a picture, what it is like and how it stands to what else; read, checked, and asked about."""

from oculex.data.graphs.schema import Graph, Thing, graph_of

__all__ = ["Graph", "Thing", "graph_of"]
