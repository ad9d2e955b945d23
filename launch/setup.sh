# shellcheck shell=bash
# What quickstart.sh and test.sh share: find a Python, make a virtual environment, install. Sourced, not run.

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# The first Python of 3.11 or newer, the one named in $PYTHON before all others.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python of version 3.11 or newer found: install one, or name it with PYTHON=/path/to/python3"
}

in_notebook_machine() { [ -n "${COLAB_RELEASE_TAG:-}${KAGGLE_KERNEL_RUN_TYPE:-}" ]; }

# Prints tpu, cuda or cpu, and why, for the accelerator whose device files are there.
find_accelerator() {
  if compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
    echo "tpu a TPU's device files are there (/dev/accel* or /dev/vfio)"
  elif [ -e /dev/nvidia0 ] || { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }; then
    echo "cuda an NVIDIA GPU is there (/dev/nvidia0 or nvidia-smi)"
  else
    echo "cpu neither a TPU (/dev/accel*, /dev/vfio) nor an NVIDIA GPU was found"
  fi
}

# make_venv PYTHON DIR: with the standard library, else with virtualenv (Colab and bare Ubuntu lack ensurepip).
make_venv() {
  local python=$1 folder=$2 version
  if [ -x "$folder/bin/python" ] && "$folder/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
  # Only what was a virtual environment, or nothing at all, is made anew.
  if [ -n "$(ls -A "$folder" 2>/dev/null)" ] && [ ! -e "$folder/pyvenv.cfg" ]; then
    die "$folder is no virtual environment and not empty: name another place with BERT_JAX_VENV"
  fi
  rm -rf "$folder"
  if "$python" -c 'import ensurepip, venv' 2>/dev/null && "$python" -m venv "$folder"; then return; fi
  rm -rf "$folder"
  if "$python" -m virtualenv --version >/dev/null 2>&1 || "$python" -m pip install --quiet --user virtualenv 2>/dev/null; then
    if "$python" -m virtualenv --quiet "$folder"; then return; fi
  fi
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  die "cannot make a virtual environment with $python: install the package python$version-venv (Debian, Ubuntu) and run this again"
}

# install_package PYTHON ROOT EXTRAS: install this checkout under the tested versions, once per state of the settings.
install_package() {
  local python=$1 root=$2 extras=$3 version constraints stamp wanted
  version=$("$python" -c 'import sys; print("py%d%d" % sys.version_info[:2])')
  constraints=${BERT_JAX_CONSTRAINTS:-$root/launch/constraints/$version.txt}
  stamp=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/bert_jax_installed
  wanted="$root $extras $({ cat "$root/pyproject.toml" "$constraints" 2>/dev/null || true; } | cksum)"
  if [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp"; then return; fi
  say "installing bert_jax[$extras] into $("$python" -c 'import sys; print(sys.prefix)')"
  local options=(--quiet --disable-pip-version-check -e "$root[$extras]")
  if [ -f "$constraints" ]; then options+=(-c "$constraints"); else say "no tested versions for $version: taking the newest"; fi
  "$python" -m pip install "${options[@]}" || die "pip could not install bert_jax[$extras]: see its message above"
  echo "$wanted" >>"$stamp"
}
