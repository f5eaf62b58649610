"""What setup.cfg cannot say: the C extensions, which are built where they can be and left out where they cannot."""

import os
import sys

from setuptools import Extension, setup

EXTENSIONS = [
    Extension(
        f"alphavel.websocket.transports.{name}",
        [f"alphavel/websocket/transports/{name}.c"],
        py_limited_api=True,
        optional=True,  # without a compiler the server reads and writes in Python
    )
    for name in ("_reading", "_writing")
]

wanted = sys.platform == "linux" and not os.environ.get("ALPHAVEL_PURE_PYTHON")
setup(ext_modules=EXTENSIONS if wanted else [])
