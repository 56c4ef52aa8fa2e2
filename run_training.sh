#!/usr/bin/env bash
# Stage 1 on real data: `./run_training.sh`, or in the background `nohup ./run_training.sh > /dev/null 2>&1 &`.
# Change the parameters below, or give flags after the name; those win: `./run_training.sh --lr 1e-4 --resume`.
# Each stands on a line of its own that can be deleted; `lavic distill --help` explains all of them.

PARAMETERS=(
  --model_name llava-hf/llava-v1.6-mistral-7b-hf
  --train_data data/item2meta_train.json
  --val_data data/item2meta_valid.jsonl
  --train_images_dir data/train_images
  --val_images_dir data/valid_images
  --output_dir out_distilled
  --batch_size 1
  --num_epochs 1
  --lr 5e-5
  --weight_decay 1e-5
  --max_samples 5000
  --max_length 2048
  --num_workers 2
)

set -euo pipefail
# Paths above are relative to this file's folder, wherever it is called from.
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

# Sets LAVIC to the command of the active environment (conda, virtualenv, or simply the PATH), else of .venv.
find_lavic() {
  local folder python
  for folder in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    if [[ -n "$folder" && -x "$folder/bin/lavic" ]]; then
      LAVIC=("$folder/bin/lavic")
      return
    fi
  done
  if command -v lavic > /dev/null; then
    LAVIC=(lavic)
    return
  fi
  for python in python python3 .venv/bin/python; do
    if command -v "$python" > /dev/null && "$python" -c 'import lavic' 2> /dev/null; then
      LAVIC=("$python" -m lavic.cli.main)
      return
    fi
  done
  echo "run_training.sh: lavic is not installed here; run \`pip install -r requirements.txt\` first." >&2
  exit 2
}

find_lavic
exec "${LAVIC[@]}" distill ${PARAMETERS[@]+"${PARAMETERS[@]}"} "$@"
