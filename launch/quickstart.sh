#!/usr/bin/env bash
# Pre-train a small BERT from nothing: set up, train on the documentation that ships with Python, evaluate, fill masks.
#
#   launch/quickstart.sh [--cpu] [--no-venv] [--run DIR] [--config NAME] [-- --section.field VALUE ...]
#
#   --cpu          train on the CPU although an accelerator is there
#   --no-venv      use the running Python and leave its jax alone (chosen by itself in Colab and Kaggle)
#   --run DIR      where the run lies (default: runs/quickstart); started again, it resumes
#   --config NAME  another configuration (default: quickstart)
#   -- ...         settings for bert-jax pretrain, such as --train.steps 100
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/setup.sh
source "$root/launch/setup.sh"

run=runs/quickstart config=quickstart want_cpu='' use_venv=yes
while [ $# -gt 0 ]; do
  case $1 in
    --cpu) want_cpu=yes ;;
    --no-venv) use_venv='' ;;
    --run) run=${2:?--run needs a directory}; shift ;;
    --config) config=${2:?--config needs a name}; shift ;;
    --) shift; break ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "unknown option $1: see launch/quickstart.sh --help" ;;
  esac
  shift
done
if in_notebook_machine; then use_venv=''; fi

read -r accelerator why <<<"$(find_accelerator)"
if [ -n "$want_cpu" ]; then accelerator=cpu why='--cpu was given'; fi
say "accelerator: $accelerator ($why)"

python=$(find_python)
if [ -n "$use_venv" ]; then
  venv=${BERT_JAX_VENV:-$root/.venv}
  make_venv "$python" "$venv"
  python=$venv/bin/python
  case $accelerator in cpu) extras=formats ;; *) extras=$accelerator,formats ;; esac
  install_package "$python" "$root" "$extras"
else
  say "using $python as it is; its jax stays"
  pins=$(mktemp)
  "$python" -m pip list --format=freeze 2>/dev/null | grep -iE '^(jax|jaxlib|libtpu|jax-cuda[0-9]*-(plugin|pjrt)|numpy|flax)==' >"$pins" || true
  BERT_JAX_CONSTRAINTS=$pins install_package "$python" "$root" formats
  rm -f "$pins"
fi

if [ "$accelerator" = cpu ]; then export JAX_PLATFORMS=cpu; fi
seen=$("$python" -c 'import jax; print(jax.default_backend(), len(jax.devices()), jax.devices()[0].device_kind)') ||
  die "JAX could not start: see its message above"
say "JAX sees: $seen"
if [ "$accelerator" != cpu ] && [ "${seen%% *}" = cpu ]; then
  die "a $accelerator is in this machine but JAX sees only a CPU: mend its driver or jax[$accelerator], or give --cpu"
fi

bert_jax() { "$python" -m bert_jax "$@"; }

say "1/3 pre-training ($config) into $run"
bert_jax pretrain "$config" --run "$run" "$@" >/dev/null
say "2/3 evaluating on held-out documents, beside what chance would score"
bert_jax evaluate "$run"
say "3/3 filling masks"
bert_jax predict fill-mask "$run" \
  "Return a copy of the [MASK]." \
  "If the file does not exist, an [MASK] is raised." \
  "Changed in version 3.2: added support for the [MASK] statement."

cat >&2 <<TEXT

Done. Everything lies in $run:
  run.json  tokenizer/  checkpoints/  metrics.jsonl  tensorboard/  data/ (its vocabulary and token store)
Next:
  '$python' -m bert_jax predict fill-mask '$run' "your own text with a [MASK] in it"
  '$python' -m bert_jax show '$run' --step 0 --count 2        # what the model was trained on, mask by mask
  '$python' -m bert_jax pretrain --help                     # your own text: --data.sources path/to/text
TEXT
