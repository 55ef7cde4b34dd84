# Sourced by the other scripts: creates or completes a virtual environment in the checkout.
#   prepare DIR EXTRA...   installs these extras of pyproject.toml into DIR, in the versions of constraints.txt
#   runtime                prints gpu or cpu: the ONNX Runtime wheel to use for DEVICE
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$root
fail() { echo "error: $*" >&2; exit 1; }

find_python() {
  local candidate first
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null &&
      { echo "$candidate"; return; }
  done
  first=${PYTHON:-python3}
  command -v "$first" >/dev/null || fail "no Python from 3.11 to 3.14 found ($first is missing); name one: PYTHON=python3.12"
  fail "no Python from 3.11 to 3.14 found ($first is $("$first" --version 2>&1 | cut -d' ' -f2)); name one: PYTHON=python3.12"
}

driver_answers() {
  local driver
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) || return 1
  [ "${driver%%.*}" -ge 580 ] 2>/dev/null
}

runtime() {
  case "${DEVICE:-auto}" in
    cuda) echo gpu ;;
    cpu) echo cpu ;;
    auto) if [ "$(uname -sm)" = "Linux x86_64" ] && driver_answers; then echo gpu; else echo cpu; fi ;;
    *) fail "DEVICE is '$DEVICE'; use auto, cpu or cuda" ;;
  esac
}

# Prints the extras that are not installed yet: those without the stamp of a complete installation; all of them where
# the interpreter is missing.
missing() {
  local venv=$1 stamp=$2 extra
  shift 2
  for extra in "$@"; do
    [ -x "$venv/bin/python" ] && [ "$(cat "$venv/installed-$extra" 2>/dev/null)" = "$stamp" ] || echo "$extra"
  done
}

# The CPU and the GPU wheel install the same files, so where the other one is installed, both are removed first.
remove_other_wheel() {
  local venv=$1 extra=$2 other
  case $extra in cpu) other=onnxruntime_gpu-[0-9] ;; gpu) other=onnxruntime-[0-9] ;; *) return 0 ;; esac
  compgen -G "$venv/lib/python*/site-packages/$other*" >/dev/null || return 0
  "$venv/bin/python" -m pip uninstall -q -y onnxruntime onnxruntime-gpu || true
  rm -f "$venv/installed-cpu" "$venv/installed-gpu"
}

# Installs DIR/requirements.txt and shows progress on stderr: on a terminal as pip does, elsewhere one line per slow step.
pip_install() {
  local venv=$1 pip
  rm -f "$venv/pip.log"
  pip=("$venv/bin/python" -u -m pip install --no-cache-dir --disable-pip-version-check --log "$venv/pip.log"
    -c "$root/constraints.txt" -r "$venv/requirements.txt")
  if [ -t 2 ]; then
    TMPDIR=$venv/tmp "${pip[@]}" >&2
  else
    TMPDIR=$venv/tmp "${pip[@]}" 2>/dev/null |
      { grep --line-buffered -oE '^ *Downloading [^ ]+ \([0-9.]+ [MG]B\)|^Installing collected packages' >&2 || true; }
  fi
}

prepare() {
  local venv=$1 python extra extras stamp
  shift
  [ "$(uname -sm)" != "Darwin x86_64" ] || fail "ONNX Runtime has no wheels for Macs with an Intel processor; use Docker"
  for extra in "$@"; do remove_other_wheel "$venv" "$extra"; done
  stamp=$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum | tr ' ' -)
  extras=$(missing "$venv" "$stamp" "$@")
  [ -n "$extras" ] || return 0
  python=$(find_python)
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv" >/dev/null ||
    fail "$python cannot make a virtual environment in $venv; on Debian and Ubuntu: apt-get install python3-venv"
  echo "installing into ${venv#"$root"/}:" $extras >&2
  mkdir -p "$venv/tmp"
  "$venv/bin/python" - "$root/pyproject.toml" $extras >"$venv/requirements.txt" <<'PY'
import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
print(*project["dependencies"], *(r for e in sys.argv[2:] for r in project["optional-dependencies"][e]), sep="\n")
PY
  pip_install "$venv" || fail "pip failed: $(grep -m 1 -o 'ERROR: .*' "$venv/pip.log" ||
    tail -n 1 "$venv/pip.log") (full log: $venv/pip.log)"
  # Written last, so that an interrupted installation is repeated.
  for extra in $extras; do echo "$stamp" >"$venv/installed-$extra"; done
}
