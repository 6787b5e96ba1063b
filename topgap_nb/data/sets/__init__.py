"""One file per data set, each holding a ``DataSet``; also the files of ``$TOPGAP_SETS``."""

import os

if own_folder := os.environ.get("TOPGAP_SETS"):
    __path__.append(os.path.abspath(os.path.expanduser(own_folder)))
