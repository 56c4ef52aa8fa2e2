#!/usr/bin/env bash
# How the training goes: a menu in a terminal; a summary, and exit code 0, where there is none.
# Flags after the name are those of `lavic monitor`, for example --output_dir out_distilled --log_dir logs;
# with one that says what to show (--view, --follow, --once, --json) there is no menu.

set -uo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" || exit 2

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

# Shows a view; q or Ctrl-C come back to the menu from one that goes on.
show() {
  trap : INT
  "${LAVIC[@]}" monitor "$@"
  trap - INT
}

find_lavic
if [[ ! -t 0 || ! -t 1 ]]; then
  # The last flag of a name counts, so a --view of the caller's beats this one.
  "${LAVIC[@]}" monitor --view summary "$@"
  exit
fi
for word in "$@"; do
  case "${word//_/-}" in
    --view | --view=* | --follow | --once | --json | --help | -h)
      # What is wanted was said already.
      "${LAVIC[@]}" monitor "$@"
      exit
      ;;
  esac
done

while true; do
  printf '\n 1  live view\n 2  follow the log\n 3  summary\n 4  GPU use\n 5  warnings and errors\n 6  loss curve\n q  quit\n'
  read -r -p '> ' choice || break
  case "$choice" in
    1 | '') show "$@" --view live ;;
    2) echo "(Ctrl-C goes back to the menu)" && show "$@" --view follow ;;
    3) show "$@" --view summary ;;
    4) show "$@" --view gpu --once ;;
    5) show "$@" --view errors --once ;;
    6) show "$@" --view curve --once ;;
    q | Q) break ;;
    *) echo "There is no $choice in the menu." ;;
  esac
done
exit 0
