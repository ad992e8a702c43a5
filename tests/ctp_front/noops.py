"""Writes the vendor's interface as a C++ class whose every method does nothing.

The stubs override the few methods that a gateway calls. The vendor's headers are read, not
kept: a newer version of the API with more methods needs no change here.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["CLASSES", "write_noops"]

CLASSES = {
    "CThostFtdcMdApi": ("MdApiNoops", "ThostFtdcMdApi.h"),
    "CThostFtdcTraderApi": ("TraderApiNoops", "ThostFtdcTraderApi.h"),
}
"""By the vendor's class: ours below it, and the header that declares it."""

_METHOD = re.compile(
    r"virtual\s+(?P<result>[\w\s]+?[\s*]+)(?P<name>\w+)\s*\((?P<arguments>[^)]*)\)\s*=\s*0\s*;"
)


def write_noops(headers: Path, folder: Path) -> list[Path]:
    """Write one header for each class into ``folder``; return their paths."""
    written: list[Path] = []
    for vendor, (ours, header) in CLASSES.items():
        path = folder / f"noop_{vendor}.h"
        path.write_text(_class(vendor, ours, (headers / header).read_text(encoding="utf-8-sig")))
        written.append(path)
    return written


def _class(vendor: str, ours: str, text: str) -> str:
    """Return the definition of ``ours``, with a body for each abstract method of ``vendor``."""
    text = re.sub(r"//[^\n]*", "", text)
    body = text[re.search(rf"class\s+\w+\s+{vendor}\s*\{{", text).end() :]  # type: ignore[union-attr]
    lines = [f'#pragma once\n#include "vendor.h"\nclass {ours} : public {vendor} {{', " public:"]
    for method in _METHOD.finditer(body):
        result = method["result"].strip()
        does = {"void": "", "int": "return 0;"}.get(result, 'return "";')
        arguments = " ".join(method["arguments"].split())
        lines.append(f"  {result} {method['name']}({arguments}) override {{ {does} }}")
    return "\n".join([*lines, " protected:", f"  ~{ours}() = default;", "};", ""])
