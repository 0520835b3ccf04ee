"""``python -m oculex`` is the ``oculex`` command."""

from oculex.cli import main

main()
