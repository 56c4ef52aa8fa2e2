#!/usr/bin/env bash
# How the training goes: a menu in a terminal; a summary, and exit code 0, where there is none.
# Flags after the name are those of `lavic monitor`, for example --output_dir out_distilled --log_dir logs.

set -uo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" || exit 2

LOG_DIR=logs
take_next=""
for word in "$@"; do
  if [[ -n "$take_next" ]]; then LOG_DIR=$word take_next=""; fi
  case "$word" in
    --log_dir | --log-dir) take_next=yes ;;
    --log_dir=* | --log-dir=*) LOG_DIR=${word#*=} ;;
  esac
done

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
  echo "monitor_training.sh: lavic is not installed here; run \`pip install -r requirements.txt\` first." >&2
  exit 2
}

newest_log() {
  local logs=("$LOG_DIR"/training_*.log)
  [[ -e "${logs[-1]}" ]] && echo "${logs[-1]}"
}

# Runs a command that goes on until Ctrl-C, and comes back to the menu.
until_interrupted() {
  echo "(Ctrl-C goes back to the menu)"
  trap : INT
  "$@"
  trap - INT
}

follow_log() {
  local log
  if log=$(newest_log); then until_interrupted tail -n 20 -f "$log"; else echo "No log in $LOG_DIR yet."; fi
}

show_gpu() {
  if ! command -v nvidia-smi > /dev/null; then
    echo "No NVIDIA GPU here (nvidia-smi is missing)."
    return
  fi
  nvidia-smi --format=csv --query-gpu=index,name,utilization.gpu,memory.used,memory.total,temperature.gpu
}

show_warnings() {
  local log
  if ! log=$(newest_log); then
    echo "No log in $LOG_DIR yet."
    return
  fi
  grep -nE 'WARNING|ERROR|status=(failed|interrupted)' "$log" | tail -n 20 || echo "None in $log."
}

show_losses() {
  local log
  if ! log=$(newest_log); then
    echo "No log in $LOG_DIR yet."
    return
  fi
  grep -E 'val_loss=' "$log" | tail -n 10
  grep -E 'train_loss=' "$log" | tail -n 5
}

find_lavic
if [[ ! -t 0 || ! -t 1 ]]; then
  "${LAVIC[@]}" monitor "$@"
  exit
fi

while true; do
  printf '\n 1  summary and loss curve\n 2  follow the log\n 3  last losses\n 4  warnings and errors\n 5  GPU\n q  quit\n'
  read -r -p '> ' choice || break
  case "$choice" in
    1 | '') "${LAVIC[@]}" monitor "$@" ;;
    2) follow_log ;;
    3) show_losses ;;
    4) show_warnings ;;
    5) show_gpu ;;
    q | Q) break ;;
    *) echo "There is no $choice in the menu." ;;
  esac
done
exit 0
