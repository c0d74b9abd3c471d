// Program neighbour campaigns for a Lease as operators in Go do: with client-go's leader election, or as a manager of
// controller-runtime. Tests run it beside our nodes. It prints a line when it begins and when it stops to lead, and
// leaves at SIGTERM, giving the Lease back.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

type options struct {
	namespace, lease, identity string
	duration, deadline, retry  time.Duration
}

func main() {
	// controller-runtime has a flag of its own in the common set.
	flags := flag.NewFlagSet("neighbour", flag.ExitOnError)
	kind := flags.String("kind", "client-go", "client-go or controller-runtime")
	kubeconfig := flags.String("kubeconfig", "", "file with the access to the API server")
	var o options
	flags.StringVar(&o.namespace, "namespace", "default", "namespace of the Lease")
	flags.StringVar(&o.lease, "lease", "", "name of the Lease")
	flags.StringVar(&o.identity, "identity", "neighbour", "name as a holder (client-go only)")
	flags.DurationVar(&o.duration, "duration", 15*time.Second, "lease duration")
	flags.DurationVar(&o.deadline, "deadline", 10*time.Second, "renew deadline")
	flags.DurationVar(&o.retry, "retry", 2*time.Second, "retry period")
	_ = flags.Parse(os.Args[1:])
	ctrl.SetLogger(klog.Background())
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	switch *kind {
	case "client-go":
		clientGo(ctx, config, o)
	case "controller-runtime":
		controllerRuntime(ctx, config, o)
	default:
		fail(fmt.Errorf("there is no kind %q", *kind))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func clientGo(ctx context.Context, config *rest.Config, o options) {
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Name: o.lease, Namespace: o.namespace},
		Client:     kubernetes.NewForConfigOrDie(config).CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: o.identity},
	}
	leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
		Lock:            lock,
		ReleaseOnCancel: true,
		LeaseDuration:   o.duration,
		RenewDeadline:   o.deadline,
		RetryPeriod:     o.retry,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				fmt.Println("leading")
				<-ctx.Done()
			},
			OnStoppedLeading: func() { fmt.Println("stopped") },
		},
	})
}

func controllerRuntime(ctx context.Context, config *rest.Config, o options) {
	m, err := ctrl.NewManager(config, ctrl.Options{
		LeaderElection:                true,
		LeaderElectionID:              o.lease,
		LeaderElectionNamespace:       o.namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &o.duration,
		RenewDeadline:                 &o.deadline,
		RetryPeriod:                   &o.retry,
		Metrics:                       server.Options{BindAddress: "0"},
	})
	if err != nil {
		fail(err)
	}
	lead := manager.RunnableFunc(func(ctx context.Context) error {
		fmt.Println("leading")
		<-ctx.Done()
		return nil
	})
	if err := m.Add(lead); err != nil {
		fail(err)
	}
	if err := m.Start(ctx); err != nil {
		fail(err)
	}
	fmt.Println("stopped")
}
