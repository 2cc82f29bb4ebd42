"""Writes s2clientprotocol's modules anew for protobuf 4 or later, whose own implementation (upb) decodes much faster.

    .venv-smac/bin/python benchmarks/smac_protobuf.py .venv-upb/lib/python3.11/site-packages

The published modules are of a form that protobuf refuses from 4.21 on. Each holds its whole description, from which
the modules of today's form are made: what protoc would write from the same files. It runs where s2clientprotocol can be
imported, so with protobuf 3.20, and writes a package ``s2clientprotocol`` into the folder. docs/smac.md has the rest.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
from pathlib import Path

MODULE = '''"""Made by benchmarks/smac_protobuf.py from the description in the published module."""
from google.protobuf import descriptor_pool
from google.protobuf.internal import builder
{imports}
DESCRIPTOR = descriptor_pool.Default().AddSerializedFile({description!r})
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, {name!r}, globals())
'''


def module(name: str) -> str:
    """The text of one module, with its imports: the pool wants a description's dependencies before it."""
    published = importlib.import_module(f"s2clientprotocol.{name}").DESCRIPTOR
    needed = (Path(dependency.name).stem for dependency in published.dependencies)
    imports = "".join(f"from s2clientprotocol import {stem}_pb2\n" for stem in needed)
    return MODULE.format(imports=imports, description=published.serialized_pb, name=f"s2clientprotocol.{name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the package is put; one that is there is replaced")
    given = parser.parse_args()
    published = Path(importlib.import_module("s2clientprotocol").__file__).parent
    target = given.folder / "s2clientprotocol"
    if target.resolve() == published.resolve():
        parser.error(f"{target} holds the published modules: name the folder of another environment")
    texts = {path.name: module(path.stem) for path in sorted(published.glob("*_pb2.py"))}
    target.mkdir(parents=True, exist_ok=True)
    for name in ("__init__.py", "build.py"):
        shutil.copy(published / name, target / name)
    for name, text in texts.items():
        (target / name).write_text(text)
    print(f"{len(texts)} modules in {target}")


if __name__ == "__main__":
    main()
