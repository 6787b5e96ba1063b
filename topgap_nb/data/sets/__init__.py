"""One file per data set, each holding a ``DataSet``; also the files of ``$TOPGAP_SETS``."""

from topgap_nb.store.layout import own_sets

if own_folder := own_sets():
    __path__.append(str(own_folder))
