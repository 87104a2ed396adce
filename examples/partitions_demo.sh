#!/usr/bin/env bash
# The three terminals of partitions_demo in one: each line says which node printed it, and Ctrl-C ends all of them.
#
#   examples/partitions_demo.sh                     HTTP on ports 8080, 8081 and 8082
#   examples/partitions_demo.sh 9000 9001 9002      on these
#
# PARTITIONS_DEMO is the built example, if it is not to be built here.
set -euo pipefail

if (($# != 0 && $# != 3)); then
    echo "usage: $0 [PORT PORT PORT]" >&2
    exit 2
fi
ports=("$@")
(($# == 3)) || ports=(8080 8081 8082)

demo="${PARTITIONS_DEMO:-}"
if [[ -z "$demo" ]]; then
    cd "$(dirname "$0")/.."
    cargo build --quiet --example partitions_demo
    demo="${CARGO_TARGET_DIR:-target}/debug/examples/partitions_demo"
fi

nodes=()
end() {
    trap - EXIT INT TERM
    kill "${nodes[@]}" 2>/dev/null || true
    wait
}
trap end EXIT INT TERM

for n in 1 2 3; do
    known=""
    ((n == 1)) || known="localhost:${ports[0]}"
    NODE_ID="node-$n" HTTP_ADDR=":${ports[n - 1]}" KNOWN_NODES="$known" \
        "$demo" > >(sed -u "s/^/node-$n | /") 2> >(sed -u "s/^/node-$n | /" >&2) &
    nodes+=("$!")
done
wait -n "${nodes[@]}"
