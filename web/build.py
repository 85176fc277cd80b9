"""Build for the browser: python web/build.py writes web/dist/npm, the package, and web/dist/page, the page.

zig compiles the C library with the model that ships into WebAssembly; the modules in web/src become one, the WebAssembly inside.
The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from edge_ser._version import __version__
from edge_ser.files import writing
from edge_ser.model.c_source import source_of

WEB = Path(__file__).parent
ROOT = WEB.parent
CSRC = ROOT / "edge_ser" / "csrc"
TARGET = ("-target", "wasm32-wasi", "-msimd128", "-std=c99", "-O3", "-ffp-contract=off", "-s")
_REACTOR = ("-mexec-model=reactor", "-Wl,-z,stack-size=131072")
_IMPORT = re.compile(r'^import\s+\{[^}]*\}\s+from\s+"(?:\./([a-z-]+)\.js|edge-ser)";\n', re.MULTILINE)
_POLICY = (
    "default-src 'none'; connect-src 'none'; script-src {script} 'wasm-unsafe-eval' data:; style-src {style}; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
_PASSED_ON = re.compile(r'^export\s+\{([^}]*)\}\s+from\s+"\./([a-z-]+)\.js";\n', re.MULTILINE)

_COMMENT = re.compile(r"^[ \t]*(?:/\*(?:[^*]|\*(?!/))*\*/|//[^\n]*)\n", re.MULTILINE)
_INDENTATION = re.compile(r"^[ \t]+", re.MULTILINE)


def compiled(output: Path, sources: list[Path], *flags: str) -> bytes:
    """Compile C for WebAssembly into ``output`` and return it; SystemExit where the compiler fails."""
    command = [sys.executable, "-m", "ziglang", "cc", *TARGET, f"-I{CSRC}", *flags, *map(str, sources)]
    done = subprocess.run(
        [*command, *map(str, sorted(CSRC.glob("*.c"))), "-o", str(output)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the compiler failed (it is the package ziglang)\n{done.stderr[-2000:]}")
    return output.read_bytes()


def wasm() -> bytes:
    """Return the library with the model that ships, for ``web/src/engine.js``."""
    folder = WEB / "dist" / "c"  # zig keeps what it compiled by where it lies
    source_of().write(folder)
    with tempfile.TemporaryDirectory() as name:
        sources = [WEB / "src" / "eser_web.c", folder / "eser_model.c"]
        return compiled(Path(name) / "eser.wasm", sources, f"-I{folder}", *_REACTOR)


def joined(entry: Path, generated: dict[str, str]) -> tuple[str, list[str]]:
    """Return a module and all it imports as one without imports and comments, and the names that it passes on.

    ``generated`` has modules that are no files, by name.
    """
    seen: list[str] = []
    names: list[str] = []
    parts: list[str] = []

    def take(name: str) -> None:
        if name in seen:
            return
        seen.append(name)
        text = generated.get(name) or (entry.parent / f"{name}.js").read_text(encoding="utf-8")
        for found in (*_IMPORT.finditer(text), *_PASSED_ON.finditer(text)):
            other = found.group(found.lastindex or 1)
            if other is not None:
                take(other)
        for found in _PASSED_ON.finditer(text):
            names.extend(word.strip() for word in found.group(1).split(","))
        text = _INDENTATION.sub("", _COMMENT.sub("", _PASSED_ON.sub("", _IMPORT.sub("", text))))
        parts.append(re.sub(r"^export (?=(async |const|class|function|let))", "", text, flags=re.MULTILINE).strip())

    take(entry.stem)
    return "\n\n".join(part for part in parts if part) + "\n", names


def package(binary: bytes) -> dict[str, bytes]:
    """Return the files of the npm package by name."""
    script, names = joined(WEB / "src" / "index.js", _generated(binary))
    head = f"/* edge-ser {__version__}, Apache-2.0; the licences of the speech it learnt from are in NOTICE. */\n"
    about = json.loads((WEB / "package.json").read_text(encoding="utf-8"))
    about = {"name": about.pop("name"), "version": __version__, **about}
    return {
        "package.json": (json.dumps(about, indent=2) + "\n").encode(),
        "edge-ser.js": f"{head}{script}\nexport {{ {', '.join(names)} }};\n".encode(),
        "edge-ser.d.ts": (WEB / "src" / "edge-ser.d.ts").read_bytes(),
        "README.md": (WEB / "README.md").read_bytes(),
        "LICENSE": (ROOT / "LICENSE").read_bytes(),
        "NOTICE": (ROOT / "NOTICE").read_bytes(),
    }


def page(binary: bytes) -> bytes:
    """Return the page, one file whose policy allows the script and the style in it and no connection."""
    library, names = joined(WEB / "src" / "index.js", _generated(binary))
    application, _ = joined(WEB / "page" / "page.js", {})
    shared = ", ".join(names)
    script = f"const {{ {shared} }} = (() => {{\n{library}return {{ {shared} }};\n}})();\n\n{application}"
    script = script.replace("</script", "<\\/script")
    style = (WEB / "page" / "style.css").read_text(encoding="utf-8")
    text = (WEB / "page" / "index.html").read_text(encoding="utf-8")
    policy = _POLICY.format(script=_allowed(script), style=_allowed(style))
    for name, value in {"POLICY": policy, "VERSION": __version__, "STYLE": style, "SCRIPT": script}.items():
        text = text.replace(f"{{{{{name}}}}}", value, 1)
    return text.encode()


def _allowed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _generated(binary: bytes) -> dict[str, str]:
    return {"wasm": f'export const WASM =\n  "{base64.b64encode(binary).decode()}";\n'}


def main() -> None:
    """Build both and print names, sizes and hashes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=WEB / "dist")
    out = parser.parse_args().output
    binary = wasm()
    files = {f"npm/{name}": content for name, content in package(binary).items()}
    files["page/edge-ser.html"] = page(binary)
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        with writing(out / name) as file:
            file.write(content)
        print(f"{hashlib.sha256(content).hexdigest()[:16]}  {len(content) / 1000:7.1f} KB  {name}")


if __name__ == "__main__":
    main()
