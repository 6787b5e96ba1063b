"""The Top-GAP workbook: the package that its notebooks call.

``__init__.pyi`` lists the public names; each is imported when it is first used, so that
``topgap --help`` answers at once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
