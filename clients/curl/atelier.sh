#!/usr/bin/env bash
# Pictures in, a trained model out, a picture from it: with curl and jq over the gateway's REST paths.
# Usage: clients/curl/atelier.sh FOLDER PICTURE.png [PROMPT]     (settings: see README.md)
set -euo pipefail
folder=${1:?usage: atelier.sh FOLDER PICTURE.png [PROMPT]} picture=${2:?usage: atelier.sh FOLDER PICTURE.png [PROMPT]}
prompt=${3:-red apple}
url=http://${ATELIER_ADDRESS:-127.0.0.1:8080}
base_model=${ATELIER_BASE_MODEL:-Atelier Starter}
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# call METHOD PATH [curl options]: the answer on stdout; an error says which fields broke which rule, and ends the script.
call() {
  method=$1 path=$2
  shift 2
  status=$(curl --silent --show-error --request "$method" --output "$answer" --write-out '%{http_code}' "$@" "$url$path") ||
    exit 1
  if [ "$status" -ge 400 ]; then
    jq --raw-output '[.details[]?.field_violations[]? | "\(.field) \(.description)"] as $fields
      | "error: " + if $fields == [] then .message else $fields | join("; ") end' "$answer" >&2
    exit 1
  fi
  cat "$answer"
}
fail() { echo "error: $1" >&2 && exit 1; }
json() { call "$1" "$2" --header 'content-type: application/json' --data "$3"; }
escaped() { jq --null-input --raw-output --arg text "$1" '$text | @uri'; }

dataset=$(json POST /api/datasets "{\"name\": \"from curl $(date +%s).$$\"}" | jq .dataset.id)
sent=0
for file in "$folder"/*.png "$folder"/*.jpg "$folder"/*.jpeg "$folder"/*.webp; do
  [ -e "$file" ] || continue
  caption=$(cat "${file%.*}.txt" 2>/dev/null || true)
  path="/api/datasets/$dataset/images?filename=$(escaped "${file##*/}")&caption=$(escaped "$caption")"
  if (call POST "$path" --header "content-type: image/${file##*.}" --data-binary @"$file" >/dev/null); then
    sent=$((sent + 1))
  else
    echo "refused: ${file##*/}"
  fi
done
echo "$sent pictures in dataset $dataset"

base=$(call GET "/api/models?name=$(escaped "$base_model")" | jq '.models[0].id // empty')
[ -n "$base" ] || fail "there is no model $base_model"
# A number may be a JSON string: the service says so where it is none.
order=$(jq --null-input --arg dataset "$dataset" --arg base "$base" \
  --arg steps "${ATELIER_STEPS:-100}" --arg rank "${ATELIER_RANK:-4}" \
  '{dataset_id: $dataset, base_model_id: $base, config: {max_steps: $steps, lora: {rank: $rank}}, start: true}')
job=$(json POST /api/training "$order" | jq --raw-output .job.id)

# One event a line, as they happen. A stream that is cut is taken up again after the last event seen.
after=0 model='' failures=0
until [ -n "$model" ]; do
  while IFS=$'\t' read -r sequence kind text; do
    after=$sequence failures=0
    case $kind in
      step) echo "$text" ;;
      done) model=$text ;;
      failed | cancelled) fail "the job did not complete: $kind $text" ;;
    esac
  done < <(curl --silent --no-buffer "$url/api/training/$job/events?after_sequence=$after" | jq --unbuffered --raw-output '
    .event | select(has("heartbeat") | not) | [.sequence, (keys - ["sequence", "created_at"])[0],
      if .step then "step \(.step.step)/\(.step.total_steps), loss \(.step.smoothed_loss)"
      elif .done then .done.model_id else .failed.message // "" end] | @tsv')
  [ -n "$model" ] || sleep 1
  [ $((failures += 1)) -le 10 ] || fail "there is no news of job $job any more"
done
echo "model $model"

request=$(jq --null-input --arg model "$model" --arg prompt "$prompt" '{settings: {model_id: $model, prompt: $prompt}}')
drawn=$(json POST /api/generate/text-to-image "$request" | jq --raw-output .generation.id)
curl --silent --show-error --fail --output "$picture" "$url/api/generations/$drawn/images/0" || exit 1
echo "$picture is drawn"
