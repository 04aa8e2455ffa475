#!/usr/bin/env bash
# Maps every scene of a folder; for cron or a systemd timer:
#
#   0 2 * * *  /opt/geoseg/scripts/nightly.sh /data/incoming /models/landuse /data/maps
#
# Finished scenes are skipped, an interrupted one goes on where it stopped, and a broken one does not stop the
# rest. Exit code: 0 all complete, 3 some failed, otherwise see `geoseg predict --help`.
set -euo pipefail

if [[ $# -ne 3 ]]; then
    echo "usage: $0 SCENES MODEL OUT" >&2
    exit 2
fi
scenes=$1 model=$2 out=$3

shopt -s nullglob
files=("$scenes"/*.{tif,tiff,TIF,TIFF,vrt})
if [[ ${#files[@]} -eq 0 ]]; then
    echo "$0: no .tif, .tiff or .vrt in $scenes" >&2
    exit 2
fi

mkdir -p "$out"
exec geoseg predict "${files[@]}" --model "$model" --out "$out" --json --log-json \
    >"$out/nightly.json" 2>>"$out/nightly.log"
