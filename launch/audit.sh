#!/usr/bin/env bash
# Compare the tested versions with what is publicly known of their weaknesses (pip-audit; needs the network).
#
#   launch/audit.sh [FILE ...]
#
#   FILE   files of name==version lines (default: launch/constraints/*.txt)
#
# Exit 1 when a weakness is known, naming package, version, its number and the version that mends it; exit 3 when
# nothing could be looked up, so that silence is never taken for an answer.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/setup.sh
source "$root/launch/setup.sh"

case ${1:-} in
  -h | --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
files=("$@")
[ "${#files[@]}" -gt 0 ] || files=("$root"/launch/constraints/*.txt)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python=$(find_python)
audit=${BERT_JAX_PIP_AUDIT:-}
if [ -z "$audit" ]; then
  make_venv "$python" "$scratch/venv"
  "$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit || die "pip could not install pip-audit"
  audit=$scratch/venv/bin/pip-audit
fi

worst=0
for file in "${files[@]}"; do
  [ -f "$file" ] || die "$file: no such file; give a file of name==version lines"
  # It exits 1 both for a weakness and for a service that does not answer: what it wrote tells which.
  "$audit" --requirement "$file" --no-deps --disable-pip --format json >"$scratch/found" 2>"$scratch/errors" || true
  code=0
  "$python" - "$file" "$scratch/found" <<'PYTHON' || code=$?
import json, sys

name, found = sys.argv[1:]
try:
    listed = json.load(open(found))["dependencies"]
except ValueError:
    listed = []
looked_up = [one for one in listed if "skip_reason" not in one]
bad = [(one, weakness) for one in looked_up for weakness in one["vulns"]]
for one, weakness in bad:
    mended = ", ".join(weakness["fix_versions"]) or "no version yet"
    print(f"{name}: {one['name']} {one['version']} has {weakness['id']}, mended in {mended}")
print(f"{name}: {len(looked_up)} of {len(listed)} packages looked up, {len(bad)} known weaknesses")
sys.exit(1 if bad else 0 if looked_up else 3)
PYTHON
  if [ "$code" -eq 3 ]; then
    tail -n 1 "$scratch/errors" >&2
    say "$file: nothing could be looked up; is there a network?"
  fi
  if [ "$code" -eq 1 ] || [ "$worst" -eq 0 ]; then worst=$code; fi
done
exit "$worst"
