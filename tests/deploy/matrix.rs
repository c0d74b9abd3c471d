//! Releases of the chart `bellwether`. The tests of the chart render them, and an API server accepts their objects.

/// The value that makes etcd the store of a release. Without any value the store is Kubernetes.
pub(crate) const ETCD: &str = "etcd.endpoints={http://etcd:2379}";

/// Values of a release, as arguments of `--set`.
pub(crate) type Values = &'static [&'static str];

/// Values that people set, one at a time and together.
pub(crate) const MATRIX: &[(&str, Values)] = &[
    ("no value at all", &[]),
    ("etcd", &[ETCD]),
    (
        "Kubernetes by name, calm",
        &["store=kubernetes", "clusterName=shop", "node.profile=calm", "node.ttl=40s"],
    ),
    (
        "TLS and a user",
        &[
            "etcd.endpoints={https://a:2379,https://b:2379,https://[fd00::1]:2380}",
            "etcd.tls.existingSecret=etcd-client",
            "etcd.tls.serverName=etcd.example",
            "etcd.auth.user=shop",
            "etcd.auth.existingSecret=etcd-user",
        ],
    ),
    (
        "TLS without a client certificate",
        &["etcd.endpoints={https://a}", "etcd.tls.existingSecret=etcd-client", "etcd.tls.certKey="],
    ),
    ("all namespaces", &["watch.allNamespaces=true"]),
    (
        "nothing of ours in RBAC",
        &[ETCD, "rbac.create=false", "serviceAccount.create=false", "serviceAccount.name=mine"],
    ),
    ("no CRDs", &[ETCD, "crds.enabled=false"]),
    ("CRDs that go with the release", &[ETCD, "crds.keep=false"]),
    (
        "all that Prometheus and Grafana can have",
        &[
            ETCD,
            "metrics.serviceMonitor.enabled=true",
            "metrics.serviceMonitor.labels.release=prometheus",
            "metrics.prometheusRule.enabled=true",
            "metrics.prometheusRule.runbooks=https://books.example/bw/",
            "metrics.prometheusRule.alertLabels.team=ours",
            "metrics.prometheusRule.disabled={BellwetherTickStuck}",
            "metrics.dashboards.enabled=true",
            "metrics.dashboards.namespace=monitoring",
            "metrics.dashboards.annotations.folder=Controllers",
        ],
    ),
    ("a network policy, and etcd", &[ETCD, "networkPolicy.enabled=true"]),
    (
        "a network policy, and Kubernetes",
        &[
            "networkPolicy.enabled=true",
            "networkPolicy.ingressFrom[0].podSelector.matchLabels.app=prometheus",
            "networkPolicy.egress[0].ports[0].port=8443",
        ],
    ),
    (
        "every extra",
        &[
            "extraArgs={--never-lead}",
            "extraEnv[0].name=A,extraEnv[0].value=b",
            "extraEnvFrom[0].configMapRef.name=more",
            "extraVolumes[0].name=tmp,extraVolumes[0].emptyDir.medium=Memory",
            "extraVolumeMounts[0].name=tmp,extraVolumeMounts[0].mountPath=/tmp",
            "extraContainers[0].name=side,extraContainers[0].image=side:1",
            "extraObjects[0].apiVersion=v1,extraObjects[0].kind=ConfigMap,extraObjects[0].metadata.name=of-{{ .Release.Name }}",
            "podAnnotations.a=b",
            "podLabels.c=d",
            "nodeSelector.disk=ssd",
            "tolerations[0].operator=Exists",
            "priorityClassName=high",
            "imagePullSecrets[0].name=registry",
            "topologySpreadConstraints[0].maxSkew=2,topologySpreadConstraints[0].topologyKey=rack,topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule",
            "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "service.annotations.e=f",
            "serviceAccount.annotations.g=h",
            "node.allowActions=true",
            "node.actionHosts={status.shop.example}",
            "watch.selector=team in (a\\,b)",
            "crds.adopt=true",
        ],
    ),
    (
        "a name that is too long",
        &["fullnameOverride=a-name-that-goes-on-and-on-and-on-until-it-is-too-long"],
    ),
    ("one node, no budget", &["replicaCount=1", "podDisruptionBudget.enabled=false"]),
    ("all namespaces, and etcd", &[ETCD, "watch.allNamespaces=true"]),
    (
        "labels, annotations and a registry of all charts",
        &[
            "commonLabels.team=sales",
            "commonAnnotations.owner=me",
            "global.imageRegistry=mirror.example/proxy",
            "global.imagePullSecrets={all}",
            "networkPolicy.enabled=true",
        ],
    ),
    ("OpenShift", &["openshift=on", "networkPolicy.enabled=true"]),
    (
        "how pods are scheduled, resolve names and are replaced",
        &[
            ETCD,
            "schedulerName=own",
            "runtimeClassName=gvisor",
            "dnsPolicy=None",
            "dnsConfig.nameservers={10.0.0.10}",
            "dnsConfig.options[0].name=edns0",
            "hostAliases[0].ip=10.0.0.1,hostAliases[0].hostnames={etcd}",
            "updateStrategy.rollingUpdate.partition=2",
            "revisionHistoryLimit=3",
            "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=kubernetes.io/hostname",
        ],
    ),
    ("pods that are replaced by hand", &["updateStrategy.type=OnDelete", "dnsPolicy=Default"]),
    (
        "a network policy with peers that are known",
        &[
            ETCD,
            "networkPolicy.enabled=true",
            "networkPolicy.dnsPorts={53,5353}",
            "networkPolicy.apiServerTo[0].ipBlock.cidr=10.0.0.1/32",
            "networkPolicy.etcdTo[0].podSelector.matchLabels.app=etcd",
        ],
    ),
    (
        "a PodMonitor, and no aggregated roles",
        &[
            "metrics.podMonitor.enabled=true",
            "metrics.podMonitor.sampleLimit=5000",
            "metrics.podMonitor.honorLabels=true",
            "rbac.aggregate=false",
        ],
    ),
];
