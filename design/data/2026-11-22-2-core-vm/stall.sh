#!/bin/sh
# One load beside a server that stands still for a second, five seconds into the window.
# usage: stall.sh MAITRED NAME FLAG...   writes NAME.json and NAME.hgrm
set -eu
maitred=$1 name=$2
shift 2
ready=$(mktemp)
taskset -c 0 "$maitred" serve --listen echo=tcp://127.0.0.1:7310 > "$ready" 2> /dev/null &
server=$!
until grep -q ready "$ready"; do sleep 0.1; done
rm "$ready"
(sleep 6; kill -STOP $server; sleep 1; kill -CONT $server) &
taskset -c 1 "$maitred" load tcp://127.0.0.1:7310 "$@" --interval 1s --json --histogram "$name.hgrm" > "$name.json"
kill $server
wait
