# shellcheck shell=bash
# shellcheck disable=SC2154 # Sourced by run.sh, whose names it uses.
#
# Usage scenarios, one after the other: rolling updates, scaling to zero and back, removing and installing under
# another name, two releases side by side, the README's fourth step and then the chart.

ready_of() { # ready_of ELECTION: status of its condition Ready, and the leader that it names; empty if it does not exist yet
  in_shop get election "$1" --ignore-not-found --output 'jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.leader.name}'
}
says() { [ "$(ready_of "$1")" = "$2" ]; }
no_pods() { [ -z "$(in_shop get pods --output name)" ]; }
runs() { # runs RELEASE NODES: this many nodes are Ready, and the release's Election names one of them
  [ "$(in_shop get statefulset "$1-bellwether" --output 'jsonpath={.status.readyReplicas}')" = "$2" ] &&
    [[ "$(ready_of "$1-bellwether")" = "True $1-bellwether-"* ]]
}
state() { # state CHECK: state of the check, and the cluster that wrote it
  in_shop get uptimecheck "$1" --output 'jsonpath={.status.state} {.status.cluster}'
}
is_in() { [ "$(state "$1")" = "$2" ]; }

begin 'twenty rolling updates: no check changes its state, and none is told of anew'
# The targets of these checks do not move while the nodes are replaced.
steady() { # steady NAME TARGET
  printf '%s\n' '---' 'apiVersion: bellwether.dev/v1alpha1' 'kind: UptimeCheck' "metadata: {name: $1}" "spec: {interval: 1s, target: {$2}}"
}
api=kubernetes.default.svc.cluster.local
{
  steady page "http: {url: \"https://$api/livez\", insecureSkipTlsVerify: true}"
  for name in nobody $(seq --format 'steady-%g' 42); do steady "$name" "tcp: {host: $api, port: 443}"; done
} | in_shop apply --server-side --force-conflicts --filename - > /dev/null
none_else() { # every check is up, and there are 45
  [ "$(in_shop get uptimechecks --output 'jsonpath={range .items[*]}{.status.state}{"\n"}{end}' | sort | uniq --count | tr --squeeze-repeats ' ')" = ' 45 up' ]
}
eventually 90 'all checks are up' none_else
changes_before=$(changes) events_before=$(in_shop get events --field-selector involvedObject.kind=UptimeCheck --output name | wc -l)
settled() { # the StatefulSet controller has finished the last rollout; `rollout status` does not wait for that
  [ "$(in_shop get statefulset "$full" --output 'jsonpath={.status.currentRevision} {.status.currentReplicas} {.status.readyReplicas}')" = \
    "$(in_shop get statefulset "$full" --output 'jsonpath={.status.updateRevision} {.status.replicas} {.status.replicas}')" ]
}
for round in $(seq 20); do
  eventually 60 'the last rollout is closed' settled
  in_shop rollout restart "statefulset/$full" > /dev/null
  in_shop rollout status "statefulset/$full" --timeout 180s > /dev/null
  [ "$(changes)" = "$changes_before" ] || fail "rollout $round changed checks: $(changes) before: $changes_before"
done
events_after=$(in_shop get events --field-selector involvedObject.kind=UptimeCheck --output name | wc -l)
[ "$events_after" -le "$events_before" ] || fail "checks have $((events_after - events_before)) new events"

begin 'no node is left: the Election says that none leads, and names the next one'
in_shop scale statefulset "$full" --replicas 0 > /dev/null
eventually 60 'the Election says that no node leads' says "$full" 'False '
nodes_told=$(in_shop get election "$full" --output 'jsonpath={.status.nodeCount}')
[ "${nodes_told:-0}" = 0 ] || fail "the Election still tells of $nodes_told nodes"
in_shop get elections
in_shop scale statefulset "$full" --replicas 3 > /dev/null
eventually 120 'three pods Ready' ready
eventually 60 'the Election names the leader' named

leases() { # leases CLUSTER: names of its Lease, and of those of its incarnations
  in_shop get leases --output 'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}' | grep "^$1" || true
}

begin 'removal as the notes say: the nodes leave, and the Lease of the cluster alone stays'
delete=$(grep '^  kubectl delete statefulset ' "$scratch/notes") || fail "the notes name no command: $(cat "$scratch/notes")"
# shellcheck disable=SC2086 # The command is a line of words.
command kubectl --kubeconfig "$kubeconfig" ${delete#  kubectl } > /dev/null
[ -z "$(in_shop get pods --output name)" ] || fail "pods are left: $(in_shop get pods)"
[ "$(leases "$full")" = "$full" ] || fail "these Leases are left: $(leases "$full")"
helm uninstall "$release" > /dev/null
gone() { [ -z "$(in_shop get statefulsets,services,roles,rolebindings,serviceaccounts --selector "app.kubernetes.io/instance=$release" --output name)" ]; }
eventually 60 'everything of the release is gone' gone

begin 'installed again under another name: the definitions of the first release stay as they are'
helm install other charts/bellwether "${install[@]}" > "$scratch/notes"
grep -q 'uptimechecks.bellwether.dev was there before' "$scratch/notes" || fail "the notes say nothing of the definitions: $(cat "$scratch/notes")"
eventually 180 'three nodes and a leader' runs other 3
eventually 60 'the checks are run by it' is_in page "up $namespace/other-bellwether"

begin 'removal by Helm alone: the nodes have no rights any more, and do not wait out their grace'
# Helm takes the nodes' permissions away together with their pods.
helm uninstall other > /dev/null
at=$(date +%s%N)
eventually 90 'no pod is left' no_pods
took=$(since "$at")
echo "   the last pod is gone $took ms later"
[ "$took" -lt 18000 ] || fail "the nodes waited for their grace: $took ms"
[ -n "$(leases other-bellwether)" ] || fail 'the Lease of the cluster is gone'
delete=$(grep '^  kubectl delete lease ' "$scratch/notes") || fail "the notes name no command: $(cat "$scratch/notes")"
# shellcheck disable=SC2086 # The command is a line of words.
command kubectl --kubeconfig "$kubeconfig" ${delete#  kubectl } > /dev/null
no_leases() { [ -z "$(leases other-bellwether)" ]; }
eventually 60 'the Leases of the incarnations go with that of the cluster' no_leases

begin 'two releases that see one namespace, parted by a selector'
in_shop label uptimecheck name team=a > /dev/null
in_shop label uptimecheck page team=b > /dev/null
for team in a b; do
  helm install "$team" charts/bellwether "${install[@]}" --set replicaCount=1 --set "watch.selector=team=$team" > /dev/null
done
for team in a b; do eventually 180 "a leader of $team" runs "$team" 1; done
eventually 60 'a runs its check' is_in name "up $namespace/a-bellwether"
eventually 60 'b runs its check' is_in page "up $namespace/b-bellwether"
helm upgrade a charts/bellwether "${install[@]}" --set replicaCount=1 --set watch.selector=team=a --set node.log=debug > /dev/null
helm upgrade b charts/bellwether "${install[@]}" --set replicaCount=1 --set watch.selector=team=b --set node.log=debug > /dev/null
for team in a b; do in_shop rollout status "statefulset/$team-bellwether" --timeout 120s > /dev/null; done
helm uninstall a > /dev/null
helm uninstall b > /dev/null
eventually 90 'no pod is left' no_pods

begin "the README's fourth step as it is written, then the chart"
kubectl delete crd elections.bellwether.dev uptimechecks.bellwether.dev > /dev/null
step_of_readme() { # step_of_readme NUMBER: the commands in the first block of that step
  awk -v from="**$1. " 'index($0, from) == 1 { on = 1 } on && /^```sh/ { print_on = 1; next } print_on && /^```/ { exit } print_on' README.md
}
step_of_readme 4 > "$scratch/step"
grep -q 'bellwether crds | kubectl apply' "$scratch/step" || fail "the README's fourth step is not what it was: $(cat "$scratch/step")"
(
  # The kubectl configuration that the step requires, with this namespace as its default.
  KUBECONFIG=$scratch/kubeconfig
  cp "$kubeconfig" "$KUBECONFIG"
  command kubectl --kubeconfig "$KUBECONFIG" config set-context --current --namespace "$namespace" > /dev/null
  PATH="$program:$PATH" BELLWETHER_CLUSTER='' BELLWETHER_ETCD=''
  export KUBECONFIG PATH BELLWETHER_CLUSTER BELLWETHER_ETCD
  unset -f kubectl
  trap '[ -z "$(jobs -p)" ] || kill $(jobs -p); wait' EXIT
  # shellcheck disable=SC1091
  source "$scratch/step"
) > "$scratch/step.log" 2>&1 || fail "the README's fourth step: $(tail -n 30 "$scratch/step.log")"
says bellwether 'False ' || fail "the node of the README has left, and the Election says: $(ready_of bellwether)"
helm install "$release" charts/bellwether "${install[@]}" > "$scratch/notes"
grep -q 'made by kubectl' "$scratch/notes" || fail "the notes say nothing of the definitions: $(cat "$scratch/notes")"
eventually 180 'three nodes and a leader' runs "$release" 3
helm uninstall "$release" > /dev/null
eventually 90 'no pod is left' no_pods
