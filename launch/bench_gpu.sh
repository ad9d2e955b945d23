#!/usr/bin/env bash
# What one NVIDIA GPU does with BERT, beside torch, in under ten minutes; without TensorFlow.
#
#   launch/bench_gpu.sh [--out DIR] [--toy]
#
# Runs with the Python of the running environment (PYTHON names another), which has bert_jax's dependencies and
# jax[cuda12]; torch and transformers are measured where they are installed too. Raw JSON, a table and the machine's
# description end up in DIR (default: results/gpu/DATE-COMMIT). --toy: the same with the smallest models on a CPU.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python}
out='' toy=''
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?--out needs a folder}; shift 2 ;;
    --toy) toy=1; shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "error: unknown option $1: expected --out DIR or --toy" >&2; exit 2 ;;
  esac
done
commit=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
out=${out:-$root/results/gpu/$(date +%F)-$commit}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

if [ -n "$toy" ]; then
  export JAX_PLATFORMS=cpu
  base=tiny large=tiny short=16 long=32 batches=2 rows=2 engines=xla steps=2 device=cpu
else
  backend=$("$python" -c 'import jax; print(jax.default_backend())')
  if [ "$backend" != gpu ]; then
    echo "error: jax sees no GPU here but $backend: install jax[cuda12], or give --toy" >&2
    exit 1
  fi
  base=base large=large short=128 long=512 batches=256,512 rows=64,128 engines=einsum,xla,cudnn steps=20 device=cuda
fi
mkdir -p "$out"
{ nvidia-smi 2>/dev/null || true; uname -a; "$python" --version; date -u; } >"$out/machine.txt"

# What fails (memory, an engine that cannot) is a row of its own and ends nothing.
sweep() { # NAME MODEL VARY...
  local name=$1 model=$2 vary=() item
  shift 2
  for item in "$@" attention_dropout=0 dropout=fast dtype=bfloat16; do vary+=(--vary "$item"); done
  echo "== $name"
  "$python" -m bert_jax bench sweep "$model" --steps "$steps" "${vary[@]}" >"$out/$name.json"
}
sweep base_short "$base" "length=$short" "batch=$batches" "attention=$engines"
sweep base_long "$base" "length=$long" "batch=$rows" "attention=$engines"
sweep large_packed "$large" "length=$long" packing=8 "batch=$rows" "attention=${engines##*,}"

if "$python" -c 'import torch, transformers' 2>/dev/null; then
  for length in "$short" "$long"; do
    echo "== torch at $length"
    batch=${batches%%,*}
    [ "$length" = "$short" ] || batch=${rows%%,*}
    "$python" "$root/tests/peers/train_torch.py" --model "$base" --length "$length" --batch "$batch" --head masked \
      --predictions $((length * 15 / 100)) --compile --attention sdpa --device "$device" --dtype bfloat16 \
      --steps "$steps" >"$out/torch_$length.json" || echo "torch at $length failed" >&2
  done
else
  echo "torch and transformers are not installed: nothing is measured beside ours" >&2
fi
"$python" -m bert_jax bench table --out "$out/table.md" $(find "$out" -name '*.json' -size +0 | sort)
echo "everything is in $out"
