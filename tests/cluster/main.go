// Command kube is a whole Kubernetes in one static binary, for tests and for the demo: no Docker, no
// downloaded images, and no root where no Pods have to run. Called by the name of a component (etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler, kubelet, kubectl) it is that component. Called as kube it
// starts and stops things: see usage.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const usage = `usage:
  kube up [--dir DIR] [--kubeconfig FILE] [--port PORT] [--audit-policy FILE --audit-log FILE]
          [--node TOOLS [--image FILE]... [--expose PORT]...]
        Run a control plane. When it is ready, print one line of JSON. With --node, also a scheduler and
        a node (root; TOOLS is what node.sh prints) that has the images of these OCI archives, and from
        whose Pods 10.0.0.1:PORT is 127.0.0.1:PORT of this machine.
  kube s3 --weed PATH [--dir DIR] [--bucket NAME] [--port PORT]
        Run an S3 server (SeaweedFS). When it is ready, print one line of JSON.
  kube supervise [--grace 3s] -- COMMAND [ARG...]
        Run COMMAND (a program, not a shell script around it) and exit with its exit code.
  kube cronjob < CASES
        Answer each line of JSON, a CronJob and an instant, with what the API server's validation and the CronJob
        controller make of it: see cronCase in cronjob.go. The time zones are those of the folder $ZONEINFO.

Each but cronjob runs until its stdin reaches EOF or it gets SIGINT, SIGTERM or SIGHUP. None of its processes
outlives it, even if it is killed with SIGKILL. So give it a stdin that stays open for as long as you
need it: a pipe from the parent, not /dev/null (which is what a shell script gives to "kube up &").

With the same --dir and --port it comes back with the same data, address and credentials.
Without --dir, the state is in a temporary folder that is removed at the end.
`

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "etcd":
		os.Exit(etcd(os.Args[1:]))
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllers.NewControllerManagerCommand()))
	case "kube-scheduler":
		os.Exit(cli.Run(scheduler.NewSchedulerCommand()))
	case "kubelet":
		os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background())))
	case "kubectl":
		// kubectl words its errors for people itself; cli.Run would not.
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err)
		}
	default:
		os.Exit(kube(os.Args[1:]))
	}
}

// kube runs the subcommand that args names.
func kube(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	switch args[0] {
	case "up":
		return up(args[1:])
	case "s3":
		return s3(args[1:])
	case "supervise":
		return supervise(args[1:])
	case "cronjob":
		return cronjobs()
	case "help", "-h", "--help":
		fmt.Print(usage)
		return 0
	}
	fmt.Fprintf(os.Stderr, "kube: unknown subcommand %q\n\n%s", args[0], usage)
	return 2
}
