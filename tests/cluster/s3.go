package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// storage is what s3 prints.
type storage struct {
	Endpoint  string `json:"endpoint"`
	AccessKey string `json:"accessKey"`
	SecretKey string `json:"secretKey"`
	Dir       string `json:"dir"`
}

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// s3 runs SeaweedFS as an S3 server that does what S3 does in the matters that count for us, such as
// conditional writes. It makes the bucket if one is named; it makes no other bucket by itself.
func s3(args []string) int {
	flags := flag.NewFlagSet("kube s3", flag.ExitOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	weed := flags.String("weed", "", "")
	dir := flags.String("dir", "", "")
	bucket := flags.String("bucket", "", "")
	port := flags.Int("port", 0, "")
	_ = flags.Parse(args)
	if flags.NArg() > 0 {
		return fail("s3", fmt.Errorf("unexpected argument %q\n\n%s", flags.Arg(0), usage))
	}
	if *weed == "" {
		return fail("s3", fmt.Errorf("--weed is missing: give it what seaweedfs.sh prints"))
	}
	if *bucket != "" && !bucketName.MatchString(*bucket) {
		return fail("s3", fmt.Errorf("%q cannot be the name of a bucket: it needs 3 to 63 lower-case letters, digits, dots and hyphens", *bucket))
	}
	weedPath, err := filepath.Abs(*weed)
	if err != nil {
		return fail("s3", err)
	}
	s, err := newSession("s3", *dir)
	if err != nil {
		return fail("s3", err)
	}
	return s.run(func() (any, error) { return startS3(s, weedPath, *bucket, *port) })
}

func startS3(s *session, weed, bucket string, port int) (*storage, error) {
	accessKey, err := s.keep("access-key", randomText)
	if err != nil {
		return nil, err
	}
	secretKey, err := s.keep("secret-key", randomText)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.path("data"), 0o700); err != nil {
		return nil, err
	}
	args := []string{
		"-logtostderr", "mini", "-dir=" + s.path("data"),
		"-ip=127.0.0.1", "-ip.bind=127.0.0.1", // or else it listens on all addresses
		"-master.telemetry=false", // or else it reports to its makers
		"-webdav=false", "-admin.ui=false", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
		"-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false", // as S3 does
	}
	if bucket != "" {
		args = append(args, "-bucket="+bucket)
	}
	servers := []string{"s3", "master", "volume", "filer", "admin"}
	ports, err := freePorts(len(servers))
	if err != nil {
		return nil, err
	}
	if port == 0 {
		port = ports[0]
	}
	for i, server := range servers {
		p := ports[i]
		// Its worker looks for the admin server at this offset, whatever the flag says.
		args = append(args, fmt.Sprintf("-%s.port.grpc=%d", server, p+grpcOffset))
		if server == "s3" {
			p = port
		}
		args = append(args, fmt.Sprintf("-%s.port=%d", server, p))
	}
	s.cleanup = func() { removeSockets(ports) }

	cmd := exec.Command(weed, args...)
	// Nothing else: it would take options from other variables and from a configuration in HOME.
	cmd.Env = []string{
		"HOME=" + s.dir, "TMPDIR=" + s.dir,
		"AWS_ACCESS_KEY_ID=" + string(accessKey), "AWS_SECRET_ACCESS_KEY=" + string(secretKey),
	}
	if err := s.start("weed", cmd); err != nil {
		return nil, err
	}
	st := &storage{
		Endpoint:  "http://" + loopback(port),
		AccessKey: string(accessKey),
		SecretKey: string(secretKey),
		Dir:       s.dir,
	}
	return st, s.await("weed", func() error {
		if err := st.get("/healthz"); err != nil {
			return err
		}
		return st.get("/" + bucket) // lists the bucket or, without one, the buckets
	})
}

// removeSockets removes the Unix sockets that weed makes, by these fixed names, for the ports that
// freePorts has chosen. That of a port given by --port stays: it may be another's.
func removeSockets(ports []int) {
	for _, port := range ports {
		for _, p := range []int{port, port + grpcOffset} {
			sockets, _ := filepath.Glob(fmt.Sprintf("/tmp/seaweedfs-*-%d.sock", p))
			for _, socket := range sockets {
				_ = os.Remove(socket)
			}
		}
	}
}

// get sends a GET request, signed, and fails unless it is answered with 200. Only our own server can
// do that: no other knows the key.
func (st *storage) get(path string) error {
	req, err := http.NewRequest(http.MethodGet, st.Endpoint+path, nil)
	if err != nil {
		return err
	}
	st.sign(req, time.Now().UTC())
	transport := &http.Transport{DisableKeepAlives: true}
	return expectOK(&http.Client{Transport: transport, Timeout: 5 * time.Second}, req)
}

// sign signs a request that has no body and no query, with AWS Signature Version 4.
func (st *storage) sign(req *http.Request, now time.Time) {
	const region, service = "us-east-1", "s3"
	stamp, day := now.Format("20060102T150405Z"), now.Format("20060102")
	bodyHash := hash("")
	req.Header.Set("X-Amz-Date", stamp)
	req.Header.Set("X-Amz-Content-Sha256", bodyHash)
	const signed = "host;x-amz-content-sha256;x-amz-date"
	canonical := strings.Join([]string{
		req.Method, req.URL.EscapedPath(), "",
		"host:" + req.URL.Host, "x-amz-content-sha256:" + bodyHash, "x-amz-date:" + stamp, "",
		signed, bodyHash,
	}, "\n")
	scope := strings.Join([]string{day, region, service, "aws4_request"}, "/")
	toSign := strings.Join([]string{"AWS4-HMAC-SHA256", stamp, scope, hash(canonical)}, "\n")
	key := []byte("AWS4" + st.SecretKey)
	for _, part := range []string{day, region, service, "aws4_request"} {
		key = mac(key, part)
	}
	req.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%x",
		st.AccessKey, scope, signed, mac(key, toSign)))
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, s string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(s))
	return m.Sum(nil)
}
