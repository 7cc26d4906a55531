#!/bin/sh
# make_venv.sh PYTHON DIRECTORY: a virtual environment with pip in it.
#
# Debian and Ubuntu split ensurepip off into python3-venv, and not everybody may install
# packages, so there are second and third ways.
set -eu
python=$1
venv=$2

if ! command -v "$python" > /dev/null; then
  echo "error: no Python interpreter '$python'. Name one: make PYTHON=/path/to/python3" >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "error: keras_lsh needs Python 3.10 or later; '$python' is" \
    "$("$python" -V 2>&1). Name another: make PYTHON=/path/to/python3" >&2
  exit 1
fi

rm -rf "$venv"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if "$python" -m venv "$venv" > "$log" 2>&1; then
  exit 0
fi
if rm -rf "$venv" && "$python" -m venv --without-pip "$venv" >> "$log" 2>&1 &&
  "$python" -m pip --python "$venv/bin/python" install --quiet pip >> "$log" 2>&1; then
  exit 0
fi
if rm -rf "$venv" && "$python" -m virtualenv --quiet "$venv" >> "$log" 2>&1; then
  exit 0
fi
rm -rf "$venv"
cat "$log" >&2
cat >&2 << EOF

error: '$python' can make no virtual environment with pip: its venv module has no
ensurepip, and neither pip 22.3 or later nor virtualenv is there to take its place.
Any of these mends it:
  apt install python3-venv                    (Debian and Ubuntu, as root)
  $python -m pip install --user virtualenv
  make PYTHON=/path/to/another/python3
EOF
exit 1
