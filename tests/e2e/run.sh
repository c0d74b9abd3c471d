#!/usr/bin/env bash
# The end-to-end tests: bellwether in a real Kubernetes cluster, from the image and the chart in this tree.
# The kit that starts the cluster is a folder beside the repository; the tests do not run without it. Needs
# root. The script removes the cluster at the end, also after a failure.
#
#   KEEP_CLUSTER=1   leaves the cluster running, for inspection
#   CLUSTER_KIT=DIR  folder of the kit, if it is elsewhere
#   E2E_IMAGE=FILE   an image archive to use instead of building one
#   E2E_PROGRAM=FILE the program in the image, if it is not target/image/bellwether
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
kit=${CLUSTER_KIT:-$PWD/../shared/cluster}
if [ ! -d "$kit" ]; then
  echo "end to end: SKIPPED, there is no cluster kit at $kit"
  exit 0
fi
[ "$(id -u)" = 0 ] || { echo "end to end: a cluster needs root: run it as root"; exit 1; }

# Largest allowed size of the image archive: every machine that runs a pod pulls the image.
most_mib=25
namespace=shop release=bw full=bw-bellwether
image=localhost/bellwether:e2e

scratch=$(mktemp -d)
started=$SECONDS step='setting up'
kubectl() { command kubectl --kubeconfig "$kubeconfig" "$@"; }
in_shop() { kubectl --namespace "$namespace" "$@"; }
helm() { HELM_CACHE_HOME=$scratch HELM_CONFIG_HOME=$scratch HELM_DATA_HOME=$scratch "$tools/helm" --kubeconfig "$kubeconfig" --namespace "$namespace" "$@"; }
begin() { step=$1; echo "== $step ($((SECONDS - started)) s)"; }
fail() { echo "end to end: FAILED at '$step': $*" >&2; exit 1; }

tell() { # prints the state of the cluster, for the analysis of a failure
  [ -n "${kubeconfig:-}" ] || return 0
  in_shop get pods,statefulsets,services,endpointslices --output wide || true
  in_shop get events --sort-by .lastTimestamp | tail -n 40 || true
  for pod in $(in_shop get pods --output name); do
    echo "--- $pod"
    in_shop logs "$pod" --tail 40 || true
    in_shop logs "$pod" --previous --tail 40 2> /dev/null || true
  done
}

finish() {
  local code=$?
  trap - EXIT
  [ "$code" = 0 ] || { echo "end to end: FAILED at '$step' after $((SECONDS - started)) s"; tell; }
  if [ -n "${KEEP_CLUSTER:-}" ]; then
    echo "the cluster stays: kubectl --kubeconfig ${kubeconfig:-}; $kit/cluster down ends it"
  elif [ -n "${up:-}" ]; then
    "$kit/cluster" down || true
  fi
  [ -z "${etcd_pid:-}" ] || kill "$etcd_pid" || true
  rm -rf "$scratch"
  exit "$code"
}
trap finish EXIT
# An interrupted run cleans up as after any failure.
trap 'exit 130' INT TERM

# eventually SECONDS WHAT COMMAND...: repeats the command until it succeeds; fails after SECONDS
eventually() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt $end ] || fail "$what: not in time"
    sleep 0.3
  done
}

# The leader's pod as the nodes see it: node ids are ordinals. Empty while no node leads.
leader() {
  local pod id
  for pod in 0 1 2; do
    if id=$(in_shop exec "$full-$pod" --container bellwether -- bellwether leader --output json 2> /dev/null | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])' 2> /dev/null); then
      echo "$full-$id"
      return
    fi
  done
}
leads_other() { # leads_other POD: another pod than POD leads
  local now
  now=$(leader)
  [ -n "$now" ] && [ "$now" != "$1" ]
}
ready() { [ "$(in_shop get statefulset "$full" --output 'jsonpath={.status.readyReplicas}')" = 3 ]; }
# node_of POD: the process of the pod's node on this machine; its parent is process 1 of the container.
node_of() {
  local proc
  for proc in $(pgrep -x bellwether); do
    if { tr '\0' ' ' < "/proc/$proc/cmdline"; } 2> /dev/null | grep -qx 'bellwether run ' &&
      { tr '\0' '\n' < "/proc/$proc/environ"; } 2> /dev/null | grep -qx "POD_NAME=$1"; then
      echo "$proc"
    fi
  done
}
nodes() { # process of each pod's node
  for pod in 0 1 2; do node_of "$full-$pod"; done
}
since() { echo $((($(date +%s%N) - $1) / 1000000)); } # since NANOSECONDS: milliseconds from then to now
uid() { in_shop get pod "$1" --output 'jsonpath={.metadata.uid}' 2> /dev/null || true; }
restarts() { in_shop get pod "$1" --output 'jsonpath={.status.containerStatuses[0].restartCount}'; }

begin 'tools and image'
tests/tools/need.sh buildah runc iptables conntrack openssl ip python3
tools=$(tests/tools/build.sh helm etcd prometheus)
bin=$("$kit/build.sh")
export PATH="$bin:$PATH"
archive=${E2E_IMAGE:-$scratch/image.tar}
[ -n "${E2E_IMAGE:-}" ] || tests/tools/image.sh --prebuilt --archive "$archive" "$image" > /dev/null
# The program itself, for commands that people run outside of the cluster.
program=$scratch/program
install -D "${E2E_PROGRAM:-target/image/bellwether}" "$program/bellwether"

begin 'the cluster'
up=1
kubeconfig=$("$kit/cluster" up)
"$kit/cluster" load "$archive" > /dev/null

begin 'a namespace that takes restricted pods only, and the chart without any value of its own'
kubectl create namespace "$namespace" > /dev/null
kubectl label namespace "$namespace" pod-security.kubernetes.io/enforce=restricted > /dev/null
install=(--set "image.repository=${image%:*}" --set "image.tag=${image##*:}")
at=$(date +%s%N)
helm install "$release" charts/bellwether "${install[@]}" > "$scratch/notes"
grep -q 'kept in Kubernetes' "$scratch/notes" || fail "the notes do not say where the cluster is kept: $(cat "$scratch/notes")"
eventually 60 'a leader' leads_other nobody
first=$(leader)
echo "   $first leads, seen after $(since "$at") ms"
eventually 180 'three pods Ready' ready
echo "   three pods Ready, seen after $(since "$at") ms"

begin 'kubectl get leases'
holds() { [ -n "$(leader)" ] && [ "$(in_shop get lease "$full" --output 'jsonpath={.spec.holderIdentity}')" = "$(leader)" ]; }
eventually 60 'the Lease names the leader' holds
incarnations() { in_shop get leases --selector "bellwether.dev/cluster=$full" --output 'jsonpath={range .items[*]}{.spec.holderIdentity}{"\n"}{end}' | sort | tr '\n' ' '; }
of_each() { [ "$(incarnations)" = "$full-0 $full-1 $full-2 " ]; }
eventually 60 'each pod has the Lease of its incarnation' of_each
in_shop get leases

begin 'kubectl get elections'
named() { [ -n "$(leader)" ] && in_shop get elections --output 'jsonpath={.items[0].status.leader.name}' | grep -qx "$(leader)"; }
labelled() { [ "$(in_shop get pods --selector bellwether.dev/role=leader --output name)" = "pod/$(leader)" ]; }
eventually 60 'the Election names the leader' named
eventually 60 "the leader's pod is labelled" labelled
in_shop get elections
selected() { [ "$(in_shop get endpointslices --selector "kubernetes.io/service-name=$full-leader" --output 'jsonpath={.items[*].endpoints[*].targetRef.name}')" = "$(leader)" ]; }
eventually 60 "the leader's Service selects its pod" selected

begin 'uptime checks from the API: run by followers, told by the leader'
checks() { # state in each check's status, by name
  in_shop get uptimechecks --output 'jsonpath={range .items[*]}{.metadata.name}={.status.state} {end}'
}
in_shop apply --server-side --validate=strict --filename - > /dev/null <<MANIFESTS
apiVersion: bellwether.dev/v1alpha1
kind: UptimeCheck
metadata: {name: page}
spec: {interval: 1s, target: {http: {url: "http://$full:8080/livez"}}}
---
apiVersion: bellwether.dev/v1alpha1
kind: UptimeCheck
metadata: {name: name}
spec: {interval: 1s, target: {dns: {name: kubernetes.default.svc.cluster.local}}}
---
apiVersion: bellwether.dev/v1alpha1
kind: UptimeCheck
metadata: {name: nobody}
spec: {interval: 1s, target: {tcp: {host: $full-0.$full-headless.$namespace.svc.cluster.local, port: 9}}}
MANIFESTS
told() { [ "$(checks)" = 'name=up nobody=down page=up ' ]; }
eventually 60 'all checks have their state' told
in_shop get uptimechecks
by=$(in_shop get uptimechecks --output 'jsonpath={.items[*].status.checkedBy}')
grep -qw "${first##*-}" <<< "$by" && fail "the leader $first runs checks itself: $by"
# The leader writes lastRun at once when it takes office or a state changes, otherwise once a minute.
latest() { in_shop get uptimecheck page --output 'jsonpath={.status.lastRun}'; }

begin 'helm test'
helm test "$release" --timeout 60s --logs > "$scratch/check" || fail "bellwether check found something: $(cat "$scratch/check")"
for what in kubernetes apiserver crds election leader nodes; do
  grep -Eq "^$what +ok " "$scratch/check" || fail "bellwether check does not say that $what is well: $(cat "$scratch/check")"
done

begin 'metrics through the service'
kubectl get --raw "/api/v1/namespaces/$namespace/services/$full:http/proxy/metrics" > "$scratch/metrics"
"$tools/promtool" check metrics < "$scratch/metrics" || fail 'promtool does not like the metrics'
grep -q '^leader_election_master_status{name="bw-bellwether"} [01]$' "$scratch/metrics" || fail 'no master status'

begin "the leader's process is killed: another node leads, the container is restarted in place"
before=$(restarts "$first")
at=$(date +%s%N)
kill -9 "$(node_of "$first")"
eventually 60 'another leader' leads_other "$first"
echo "   $(leader) leads, seen after $(since "$at") ms"
restarted() { [ "$(restarts "$first")" -gt "$before" ]; }
eventually 60 'the container is restarted' restarted
eventually 60 'three pods Ready' ready

begin "the leader's pod is deleted: another node leads, the pod comes back"
second=$(leader)
was=$(uid "$second")
at=$(date +%s%N)
in_shop delete pod "$second" --wait=false > /dev/null
eventually 60 'another leader' leads_other "$second"
echo "   $(leader) leads, seen after $(since "$at") ms"
replaced() { [ "$(uid "$second")" != "$was" ]; }
eventually 60 'the pod is replaced' replaced
eventually 60 'three pods Ready' ready

begin "the leader's pod is cut off from everything: another node leads, and it comes back as a follower"
third=$(leader)
inside=$(node_of "$third")
cut() { nsenter --target "$inside" --net iptables "$1" OUTPUT ! --out-interface lo --jump DROP; }
at=$(date +%s%N)
cut --insert
eventually 60 'another leader' leads_other "$third"
echo "   $(leader) leads, seen after $(since "$at") ms"
eventually 60 'the Election names the new leader' named
eventually 60 "the new leader's pod alone is labelled" labelled
eventually 60 'the Lease names the new leader' holds
cut --delete
eventually 90 'three pods Ready' ready
eventually 60 'each pod has the Lease of its incarnation' of_each

begin 'the API server is killed and comes back: nobody restarts, and what was changed meanwhile is seen'
pids=${BELLWETHER_CLUSTER:-/run/bellwether-cluster}/pid
counts() { in_shop get pods --output 'jsonpath={.items[*].status.containerStatuses[*].restartCount}'; }
restarted_before=$(counts)
mapfile -d '' -t server < "/proc/$(cat "$pids/apiserver")/cmdline"
start_apiserver() {
  setsid nohup "${server[@]}" > "$scratch/apiserver.log" 2>&1 < /dev/null &
  echo $! > "$pids/apiserver"
  disown # Bash reports no end of a process that it does not own.
}
kill -9 "$(cat "$pids/apiserver")"
sleep 5
start_apiserver
answers() { kubectl get --raw /readyz > /dev/null 2>&1; }
eventually 60 'the API server answers' answers
in_shop patch uptimecheck nobody --type merge --patch "{\"spec\": {\"target\": {\"tcp\": {\"port\": 8080}}}}" > /dev/null
all_up() { [ "$(checks)" = 'name=up nobody=up page=up ' ]; }
eventually 90 'a check that was changed is up' all_up
eventually 60 'three pods Ready' ready
[ "$(counts)" = "$restarted_before" ] || fail "containers were restarted: $(counts), before: $restarted_before"

begin 'the API server is away for a minute: nobody restarts, and what was known goes on'
term() { # term that the leader reads from the store; the Election may still show an older one
  in_shop exec "$(leader)" --container bellwether -- bellwether leader --output json | python3 -c 'import json, sys; print(json.load(sys.stdin)["term"])'
}
told_term() { in_shop get elections --output 'jsonpath={.items[0].status.term}'; }
fence() { in_shop get elections --output 'jsonpath={.items[0].status.fence}'; }
changes() { # state of each check, and the time of its last change
  in_shop get uptimechecks --output 'jsonpath={range .items[*]}{.metadata.name}={.status.state} since {.status.lastChange}, {end}'
}
eventually 60 'all checks have their state' all_up
eventually 60 'the Election names the leader' named
term_before=$(term) fence_before=$(fence) changes_before=$(changes) restarted_before=$(counts)
processes_before=$(nodes)
kill -9 "$(cat "$pids/apiserver")"
sleep 60
at=$(date +%s%N)
start_apiserver
eventually 60 'the API server answers' answers
eventually 60 'a leader' leads_other nobody
echo "   $(leader) leads, seen $(since "$at") ms after the API server was started"
seen=$(latest)
again() { [ "$(latest)" != "$seen" ] && all_up; }
eventually 90 'checks are run and told again' again
eventually 120 'three pods Ready' ready
eventually 60 'the Election names the leader' named
same_term() { [ "$(told_term)" = "$(term)" ]; }
eventually 60 "the Election tells the leader's term" same_term
[ "$(term)" -ge "$term_before" ] || fail "the term went back from $term_before to $(term)"
[ "$(fence)" -ge "$fence_before" ] || fail "the fence went back from $fence_before to $(fence)"
[ "$(changes)" = "$changes_before" ] || fail "checks have changed: $(changes) before: $changes_before"
[ "$(counts)" = "$restarted_before" ] || fail "containers were restarted: $(counts), before: $restarted_before"
[ "$(nodes)" = "$processes_before" ] || fail "nodes were restarted: $(nodes), before: $processes_before"
echo "   $(leader) leads, term $(term), before: $term_before"

begin 'an upgrade goes through pod by pod'
helm upgrade "$release" charts/bellwether "${install[@]}" --set node.profile=fast > /dev/null
in_shop rollout status "statefulset/$full" --timeout 180s > /dev/null
eventually 60 'a leader' leads_other nobody

begin 'from Kubernetes to an etcd and back: refused while the pods run, and done without them'
# An etcd of this machine, which the pods reach through the bridge.
etcd_url=http://10.88.7.1:23795
"$tools/etcd" --data-dir "$scratch/etcd" --log-level warn --listen-client-urls "$etcd_url" --advertise-client-urls "$etcd_url" \
  --listen-peer-urls http://127.0.0.1:23805 --initial-advertise-peer-urls http://127.0.0.1:23805 \
  --initial-cluster default=http://127.0.0.1:23805 --unsafe-no-fsync > "$scratch/etcd.log" 2>&1 < /dev/null &
etcd_pid=$!
fence_before=$(fence)
grown() { [ "$(fence)" -gt "$fence_before" ]; }
move() { # move STORE VALUES...: what the refusal says to do
  if helm upgrade "$release" charts/bellwether "${install[@]}" "${@:2}" > "$scratch/refused" 2>&1; then
    fail "an upgrade to $1 was not refused"
  fi
  delete=$(grep '^  kubectl delete statefulset ' "$scratch/refused") || fail "the refusal names no command: $(cat "$scratch/refused")"
  # shellcheck disable=SC2086 # The command is a line of words.
  command kubectl --kubeconfig "$kubeconfig" ${delete#  kubectl } > /dev/null
  [ -z "$(in_shop get pods --output name)" ] || fail "pods are left: $(in_shop get pods)"
  helm upgrade "$release" charts/bellwether "${install[@]}" "${@:2}" > "$scratch/notes"
  eventually 120 'three pods Ready' ready
  eventually 60 'a leader' leads_other nobody
  eventually 60 'the fence has grown, although the store is another one' grown
  fence_before=$(fence) seen=$(latest)
  eventually 90 'checks are run and told again' again
}
move etcd --set "etcd.endpoints={$etcd_url}"
helm test "$release" --timeout 60s --logs > "$scratch/check" || fail "bellwether check found something: $(cat "$scratch/check")"
grep -Eq '^etcd +ok ' "$scratch/check" || fail "bellwether check does not ask etcd: $(cat "$scratch/check")"
move kubernetes
eventually 60 'the Lease names the leader' holds
kill "$etcd_pid"
etcd_pid=

begin 'the image'
size=$(($(tar -xOf "$archive" --wildcards 'blobs/sha256/*' 2> /dev/null | wc -c) / 1048576))
echo "   $size MiB packed"
[ -n "${E2E_IMAGE:-}" ] || [ "$size" -lt "$most_mib" ] || fail "the image has $size MiB, more than $most_mib"

source tests/e2e/journeys.sh
echo "end to end: all good after $((SECONDS - started)) s"
