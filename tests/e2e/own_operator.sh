# shellcheck shell=bash
# shellcheck disable=SC2154 # Sourced by run.sh, whose names it uses.
#
# A newcomer's operator: `bellwether new`, the two commands of its README, its image and its chart on the cluster.
# The operator has only the roles that are computed from its controllers.

# pid_of POD: the process of the operator's node in that pod; its parent is process 1 of the container.
pid_of() {
  local proc
  for proc in $(pgrep -x shop); do
    if { tr '\0' ' ' < "/proc/$proc/cmdline"; } 2> /dev/null | grep -qx 'shop run ' &&
      { tr '\0' '\n' < "/proc/$proc/environ"; } 2> /dev/null | grep -qx "POD_NAME=$1"; then
      echo "$proc"
    fi
  done
}
shop=$scratch/shop shop_image=localhost/shop:0.1.0 account=system:serviceaccount:market:shop
in_market() { kubectl --namespace market "$@"; }
took() { echo "   $1 after $((SECONDS - stepped)) s"; }

begin 'an operator of your own: bellwether new, and its tests'
stepped=$SECONDS
"$program/bellwether" new shop --kind Order --group shop.example.com --dir "$shop" --library "$PWD" > /dev/null
"$program/bellwether" new --add-kind Customer --dir "$shop" > /dev/null
# The versions of this repository: no registry is asked for others.
cp Cargo.lock "$shop/"
took 'the project is there'
export CARGO_TARGET_DIR=$PWD/target/own-operator
in_project() { (cd "$shop" && "$@"); }
in_project cargo update --offline --workspace --quiet
in_project make manifests > "$scratch/make" 2>&1 || fail "make manifests: $(tail -n 40 "$scratch/make")"
KUBEBUILDER_ASSETS=$tools in_project make test > "$scratch/make" 2>&1 || fail "make test: $(tail -n 60 "$scratch/make")"
took 'make test has passed'
in_project make lint > "$scratch/make" 2>&1 || fail "make lint: $(tail -n 60 "$scratch/make")"
took 'make lint has passed'

begin 'make run: one node on this machine, for the cluster'
stepped=$SECONDS
kubectl create namespace market > /dev/null
KUBECONFIG=$kubeconfig BELLWETHER_NAMESPACE=market BELLWETHER_LISTEN=127.0.0.1:0 setsid make -C "$shop" run > "$scratch/run.log" 2>&1 < /dev/null &
run_pid=$!
leads_alone() { in_market get election shop --ignore-not-found --output 'jsonpath={.status.leader.node}' | grep -qx 0; }
eventually 240 'the node of make run leads' leads_alone
took 'it leads'
kill -TERM -- "-$run_pid"
wait "$run_pid" || true
grep -q 'left cleanly' "$scratch/run.log" || fail "the node did not leave cleanly: $(tail -n 20 "$scratch/run.log")"

begin 'its image and its chart'
stepped=$SECONDS
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS='-C target-feature=+crt-static' in_project cargo build --offline --release --quiet --target "$host"
install -D "$CARGO_TARGET_DIR/$host/release/shop" "$shop/target/image/shop"
unset CARGO_TARGET_DIR
# The base images come from a registry, which this machine may not reach.
sed -i '/^target$/d' "$shop/.dockerignore"
BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs buildah build --format oci --layers=false --tag "$shop_image" \
  --build-arg BINARY=prebuilt --build-arg RUNTIME_BASE=scratch --build-arg BUILD_BASE=scratch "$shop" > "$scratch/make" 2>&1 ||
  fail "buildah: $(tail -n 20 "$scratch/make")"
STORAGE_DRIVER=vfs buildah push --quiet "$shop_image" "oci-archive:$scratch/shop.tar:$shop_image"
"$kit/cluster" load "$scratch/shop.tar" > /dev/null
took 'the image is there'
at=$(date +%s%N)
helm install shop "$shop/chart" --namespace market --set "image.repository=${shop_image%:*}" --set "image.tag=${shop_image##*:}" > "$scratch/notes" 2>&1 ||
  fail "helm install: $(cat "$scratch/notes")"
shop_ready() { [ "$(in_market get statefulset shop --output 'jsonpath={.status.readyReplicas}')" = 3 ]; }
eventually 120 'three pods of the operator Ready' shop_ready
shop_leader() { in_market get lease shop --output 'jsonpath={.spec.holderIdentity}'; }
led() { [ -n "$(shop_leader)" ]; }
eventually 60 'a leader of the operator' led
echo "   three pods Ready and $(shop_leader) leads, seen after $(since "$at") ms"

begin 'it reconciles, and another pod does when its leader is gone'
order() { # order NAME TEXT
  printf '%s\n' '---' 'apiVersion: shop.example.com/v1' 'kind: Order' "metadata: {name: $1}" "spec: {html: \"$2\", replicas: 1}"
}
page() { in_market get configmap "$1" --ignore-not-found --output 'jsonpath={.data.index\.html}'; }
is_page() { [ "$(page "$1")" = "$2" ]; }
order first one | in_market apply --server-side --filename - > /dev/null
eventually 60 'the first order has its page' is_page first one
for round in $(seq 20); do
  gone=$(shop_leader)
  case $((round % 3)) in
    0) in_market delete pod "$gone" --wait=false > /dev/null ;;
    1) kill -9 "$(pid_of "$gone")" ;;
    2) kill -STOP "$(pid_of "$gone")" && frozen=$(pid_of "$gone") ;;
  esac
  order first "round $round" | in_market apply --server-side --force-conflicts --filename - > /dev/null
  eventually 60 "the page of round $round" is_page first "round $round"
  [ -z "${frozen:-}" ] || { kill -CONT "$frozen" || true; frozen=''; }
done
eventually 120 'three pods of the operator Ready' shop_ready

begin 'its account may do what was computed, and no more'
may() { kubectl auth can-i "$@" --as "$account" --namespace market > /dev/null; }
may patch deployments.apps || fail 'the account may not patch deployments'
may patch customers.shop.example.com/status || fail 'the account may not patch the status of the second kind'
for wrong in 'get secrets' 'delete configmaps' 'patch pods/exec' 'create orders.shop.example.com' 'list nodes' 'update leases/other'; do
  # shellcheck disable=SC2086 # A verb and a resource.
  ! may $wrong || fail "the account may $wrong"
done
in_market get role shop --output json > "$scratch/role.json"
in_project env CARGO_TARGET_DIR="$PWD/target/own-operator" cargo run --offline --quiet -- print rbac --namespace market --cluster shop > "$scratch/rbac.yaml"
kubectl create --dry-run=client --output json --filename "$scratch/rbac.yaml" > "$scratch/rbac.json"
python3 - "$scratch/role.json" "$scratch/rbac.json" <<'PYTHON' || fail 'the chart does not give the rights that print rbac computes'
import json, sys

def rights(rules):
    return {
        (group, resource, verb, name)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames") or [""]
    }

installed = rights(json.load(open(sys.argv[1]))["rules"])
text, decoder, computed = open(sys.argv[2]).read().strip(), json.JSONDecoder(), set()
while text:
    document, end = decoder.raw_decode(text)
    text = text[end:].strip()
    for item in document.get("items", [document]):
        if item["kind"] == "Role":
            computed = rights(item["rules"])
if installed != computed or len(computed) < 20:
    print("only installed:", installed - computed, "only computed:", computed - installed)
    sys.exit(1)
PYTHON
helm uninstall shop --namespace market > /dev/null
