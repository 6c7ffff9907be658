"""NAME.in -> NAME.txt: every package with its version and the hashes of the wheels that Linux on x86_64 and aarch64 needs.

    python3 lock.py UV NAME...

UV is the uv that the tests use, .cache/wheels/uv-*/bin/uv. Takes minutes: pip is asked which wheels each Python would get.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Nothing younger is taken: what is malicious is mostly found and withdrawn within days.
newest = "2026-11-13"
pythons = ["3.11", "3.12", "3.13"]
architectures = ["x86_64", "aarch64"]
glibcs = ["manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_24", "manylinux_2_17", "manylinux2014"]
glibcs += ["manylinux_2_12", "manylinux2010", "manylinux_2_5", "manylinux1"]
here = Path(__file__).parent


def compiled(uv: str, name: str, work: Path) -> Path:
    full = work / f"{name}.txt"
    # guidellm imports PyTorch for a data loader; tests/clients/python/stand-ins has one.
    (work / "overrides.txt").write_text('torch ; python_version < "3"\n')
    options = ["--python-version", pythons[0], "--python-platform", "x86_64-manylinux_2_28", "--exclude-newer", newest]
    options += ["--generate-hashes", "--no-annotate", "--no-header", "--override", str(work / "overrides.txt")]
    subprocess.run([uv, "pip", "compile", "--quiet", *options, str(here / f"{name}.in"), "-o", str(full)], check=True)
    return full


def wheels(full: Path, work: Path) -> set[str]:
    hashes: set[str] = set()
    for python in pythons:
        for architecture in architectures:
            report = work / "report.json"
            options = ["--dry-run", "--ignore-installed", "--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", python]
            for glibc in glibcs:
                options += ["--platform", f"{glibc}_{architecture}"]
            options += ["--target", str(work / "none"), "--report", str(report), "-r", str(full)]
            if subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *options]).returncode != 0:
                print(f"{full.name}: not to be had for Python {python} on {architecture}")
                continue
            installed = json.loads(report.read_text())["install"]
            hashes |= {one["download_info"]["archive_info"]["hashes"]["sha256"] for one in installed}
    return hashes


def main() -> None:
    uv, *names = sys.argv[1:]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            full = compiled(uv, name, Path(folder))
            wanted = wheels(full, Path(folder))
            blocks = re.split(r"\n(?=\S)", full.read_text().strip())
        lines = []
        for block in blocks:
            hashes = [one for one in re.findall(r"sha256:([0-9a-f]{64})", block) if one in wanted]
            if not hashes:
                sys.exit(f"{name}: no wheel of {block.split()[0]}")
            lines.append(" \\\n    ".join([block.split(" \\")[0], *(f"--hash=sha256:{one}" for one in hashes)]))
        (here / f"{name}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
