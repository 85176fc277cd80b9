#!/bin/sh
# The shipped model, from the corpora below DATA to the files in the package: four runs, each from the weights of the one before
# (some four hours on two CPU cores), their scores, the export. From the project's root: sh train/shipped/train.sh DATA
set -eux
data=${1:?the folder that holds the corpora is missing}

n=0
for run in first second third final; do
    n=$((n + 1))
    edge-ser train --data "$data" --corpus cremad --corpus emodb --out "runs/shipped-$n" --config "train/shipped/$run/config.toml"
done
edge-ser evaluate runs/shipped-4 --data "$data" --corpus cremad
edge-ser evaluate runs/shipped-4 --data "$data" --corpus ravdess --split all
edge-ser evaluate runs/shipped-4 --data "$data" --corpus cremad --robustness
edge-ser evaluate runs/shipped-4 --data "$data" --leave-corpus-out
edge-ser evaluate runs/shipped-4 --data "$data" --corpus ravdess --split all --adaptation
edge-ser evaluate runs/shipped-4 --data "$data" --corpus cremad --calibration
edge-ser export runs/shipped-4 --int8 --format onnx,tflite,eser -o edge_ser/models/edge-ser
