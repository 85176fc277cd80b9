#!/bin/sh
# The shipped model, from the corpora below DATA to the files in the package: two runs, the second from the first's weights (four
# hours on one core of a processor with bfloat16), the export, and the files' own scores. From the project's root:
# sh train/shipped/train.sh DATA
set -eux
data=${1:?the folder that holds the corpora is missing}
final=train/shipped/final

edge-ser train --data "$data" --corpus cremad --corpus emodb --out runs/first --config $final/first.toml
edge-ser train --data "$data" --corpus cremad --corpus emodb --out runs/shipped --config $final/config.toml
edge-ser export runs/shipped --int8 --format onnx,tflite,eser --data "$data" -o edge_ser/model/files/edge-ser
for suffix in eser onnx tflite; do
    edge-ser evaluate edge_ser/model/files/edge-ser.$suffix --data "$data" --corpus cremad --record
    edge-ser evaluate edge_ser/model/files/edge-ser.$suffix --data "$data" --corpus ravdess --split all --record
done
edge-ser evaluate edge_ser/model/files/edge-ser.eser --data "$data" --corpus cremad --robustness
edge-ser evaluate edge_ser/model/files/edge-ser.eser --data "$data" --corpus cremad --rejection

adapted() { # CORPUS SPLIT: what a few utterances of a speaker bring, into the record of the shipped model
    edge-ser evaluate edge_ser/model/files/edge-ser.eser --data "$data" --corpus "$1" --split "$2" --adaptation --json |
        python -c 'import json, sys; print(json.dumps([json.loads(line) for line in sys.stdin], indent=1))' \
            >"$final/adaptation-$1-$2-int8.json"
}
adapted cremad test
adapted ravdess all
adapted nemo all
make results
