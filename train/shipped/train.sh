#!/bin/sh
# The shipped model, from the corpora below DATA to the files in the package: two runs, the second from the weights of the first
# (forty minutes on one core of a processor with AMX), their scores, the export. From the project's root: sh train/shipped/train.sh DATA
set -eux
data=${1:?the folder that holds the corpora is missing}

edge-ser train --data "$data" --corpus cremad --corpus emodb --out runs/shipped-1 --config train/shipped/first/config.toml
edge-ser train --data "$data" --corpus cremad --corpus emodb --out runs/shipped-2 --config train/shipped/final/config.toml
edge-ser evaluate runs/shipped-2 --data "$data" --corpus cremad
edge-ser evaluate runs/shipped-2 --data "$data" --corpus ravdess --split all
edge-ser evaluate runs/shipped-2 --data "$data" --corpus cremad --robustness
edge-ser evaluate runs/shipped-2 --data "$data" --leave-corpus-out
edge-ser evaluate runs/shipped-2 --data "$data" --corpus ravdess --split all --adaptation
edge-ser evaluate runs/shipped-2 --data "$data" --corpus cremad --calibration
edge-ser export runs/shipped-2 --int8 --format onnx,tflite,eser -o edge_ser/model/files/edge-ser
for suffix in onnx tflite eser; do
    edge-ser evaluate edge_ser/model/files/edge-ser.$suffix --data "$data" --corpus cremad --record
    edge-ser evaluate edge_ser/model/files/edge-ser.$suffix --data "$data" --corpus ravdess --split all --record
done
edge-ser evaluate edge_ser/model/files/edge-ser.onnx --data "$data" --corpus cremad --robustness
