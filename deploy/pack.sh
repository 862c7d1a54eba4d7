#!/bin/sh
# Makes dist/*.whl, and dist/packages.tar.gz: all that executors import but PySpark, for workers that
# have this Python (PYTHON, default python3.11) and this kind of machine, and nothing else.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT

rm -f dist/dicom_assets-*.whl dist/packages.tar.gz
"$python" -m pip wheel --quiet --no-deps --wheel-dir dist .
"$python" -m pip install --quiet --constraint constraints.txt --target "$packages" dist/dicom_assets-*.whl
chmod 755 "$packages" # mktemp's is for one user alone
tar -czf dist/packages.tar.gz -C "$packages" .
ls -sh dist
