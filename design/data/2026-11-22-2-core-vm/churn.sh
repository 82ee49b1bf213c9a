#!/bin/sh
# The same closed loop over connections that live ever shorter. usage: churn.sh MAITRED PREFIX
set -eu
maitred=$1 prefix=$2
ready=$(mktemp)
taskset -c 0 "$maitred" serve --listen echo=tcp://127.0.0.1:7310 > "$ready" 2> /dev/null &
server=$!
until grep -q ready "$ready"; do sleep 0.1; done
rm "$ready"
load() { name=$1; shift; taskset -c 1 "$maitred" load tcp://127.0.0.1:7310 --connections 16 --duration 3s --pid $server --json "$@" > "$prefix-$name.json"; }
load never
load 100 --requests-per-connection 100
load 10 --requests-per-connection 10
load 1 --requests-per-connection 1
kill $server
wait
