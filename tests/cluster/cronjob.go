package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"
	"unsafe"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/cronjob"
	"k8s.io/kubernetes/pkg/util/parsers"

	_ "k8s.io/kubernetes/pkg/apis/batch/validation"
)

// Functions of the API server's validation and of the CronJob controller that their packages keep to themselves.

//go:linkname validateScheduleFormat k8s.io/kubernetes/pkg/apis/batch/validation.validateScheduleFormat
func validateScheduleFormat(schedule string, allowTZ bool, timeZone *string, path *field.Path) field.ErrorList

//go:linkname validateTimeZone k8s.io/kubernetes/pkg/apis/batch/validation.validateTimeZone
func validateTimeZone(timeZone *string, path *field.Path) field.ErrorList

//go:linkname formatSchedule k8s.io/kubernetes/pkg/controller/cronjob.formatSchedule
func formatSchedule(cj *batchv1.CronJob, recorder record.EventRecorder) string

//go:linkname mostRecentScheduleTime k8s.io/kubernetes/pkg/controller/cronjob.mostRecentScheduleTime
func mostRecentScheduleTime(cj *batchv1.CronJob, now time.Time, schedule cron.Schedule, deadline bool) (time.Time, *time.Time, int, error)

//go:linkname cleanupFinishedJobs k8s.io/kubernetes/pkg/controller/cronjob.(*ControllerV2).cleanupFinishedJobs
func cleanupFinishedJobs(jm *cronjob.ControllerV2, ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) bool

//go:linkname syncCronJob k8s.io/kubernetes/pkg/controller/cronjob.(*ControllerV2).syncCronJob
func syncCronJob(jm *cronjob.ControllerV2, ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) (*time.Duration, bool, error)

// cronCase is a line of input: times of a schedule after an instant and, with Now, one look at a CronJob. Times are seconds
// since 1970.
type cronCase struct {
	Schedule string
	TimeZone *string
	After    int64
	Count    int
	Now      *int64
	Created  int64
	Last     *int64
	Deadline *int64
	Suspend  bool
	Policy   batchv1.ConcurrencyPolicy
	Active   []string
	Jobs     []cronChild
	// Limits of the history of successful and of failed jobs.
	Successful, Failed *int32
}

// cronChild is a job of the CronJob. End is "", "Complete" or "Failed".
type cronChild struct {
	Name    string
	End     string
	Started *int64
	Ended   int64
}

// cronAnswer is a line of output.
type cronAnswer struct {
	Refused    string   `json:"refused,omitempty"`
	Next       []int64  `json:"next"`
	Latest     *int64   `json:"latest"`
	Missed     int      `json:"missed"`
	NeverFires bool     `json:"neverFires"`
	Events     []string `json:"events"`
	Created    []string `json:"created"`
	Deleted    []string `json:"deleted"`
	Active     []string `json:"active"`
	Last       *int64   `json:"last"`
	Succeeded  *int64   `json:"succeeded"`
	// Milliseconds from now to the next look.
	Again *int64 `json:"again"`
}

// cronjobs answers each line of standard input with what Kubernetes makes of that CronJob. Time zones come from ZONEINFO.
func cronjobs() int {
	in, out := bufio.NewScanner(os.Stdin), bufio.NewWriter(os.Stdout)
	in.Buffer(nil, 1<<20)
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	for in.Scan() {
		line, asked := in.Text(), cronCase{}
		// The library does not find the end of some searches.
		endless := time.AfterFunc(20*time.Second, func() {
			fmt.Fprintf(os.Stderr, "kube cronjob: no answer after 20 seconds: %s\n", line)
			os.Exit(1)
		})
		err := json.Unmarshal([]byte(line), &asked)
		if err == nil {
			err = json.NewEncoder(out).Encode(asked.answer())
		}
		endless.Stop()
		if err != nil {
			fmt.Fprintf(os.Stderr, "kube cronjob: %v\n", err)
			return 1
		}
	}
	if in.Err() != nil || out.Flush() != nil {
		return 1
	}
	return 0
}

func (c *cronCase) answer() cronAnswer {
	var answer cronAnswer
	refused := validateScheduleFormat(c.Schedule, false, c.TimeZone, nil)
	refused = append(refused, validateTimeZone(c.TimeZone, nil)...)
	if c.Schedule == "" || len(refused) > 0 {
		answer.Refused = fmt.Sprintf("refused: %v", refused)
		return answer
	}
	cj := c.cronJob()
	schedule, err := parsers.ParseCronScheduleWithPanicRecovery(formatSchedule(cj, nil))
	if err != nil {
		answer.Refused = err.Error()
		return answer
	}
	for at := time.Unix(c.After, 0).UTC(); len(answer.Next) < c.Count; {
		if at = schedule.Next(at); at.IsZero() {
			break
		}
		answer.Next = append(answer.Next, at.Unix())
	}
	if c.Now == nil {
		return answer
	}
	now := time.Unix(*c.Now, 0).UTC()
	_, latest, missed, err := mostRecentScheduleTime(cj, now, schedule, true)
	answer.Missed, answer.NeverFires = missed, err != nil
	if latest != nil {
		answer.Latest = seconds(metav1.Time{Time: *latest})
	}
	c.sync(cj, now, &answer)
	return answer
}

func (c *cronCase) cronJob() *batchv1.CronJob {
	cj := &batchv1.CronJob{}
	cj.Name, cj.Namespace, cj.UID = "cron", "default", "cron"
	cj.CreationTimestamp = metav1.Time{Time: time.Unix(c.Created, 0).UTC()}
	cj.Spec.Schedule, cj.Spec.TimeZone, cj.Spec.StartingDeadlineSeconds = c.Schedule, c.TimeZone, c.Deadline
	cj.Spec.Suspend, cj.Spec.ConcurrencyPolicy = &c.Suspend, c.Policy
	cj.Spec.SuccessfulJobsHistoryLimit, cj.Spec.FailedJobsHistoryLimit = c.Successful, c.Failed
	if c.Last != nil {
		cj.Status.LastScheduleTime = &metav1.Time{Time: time.Unix(*c.Last, 0).UTC()}
	}
	for _, name := range c.Active {
		cj.Status.Active = append(cj.Status.Active, corev1.ObjectReference{Name: name, Namespace: cj.Namespace, UID: types.UID(name)})
	}
	return cj
}

// sync looks at the CronJob once, as the controller does.
func (c *cronCase) sync(cj *batchv1.CronJob, now time.Time, answer *cronAnswer) {
	server := &cronServer{cj: cj, answer: answer}
	for _, child := range c.Jobs {
		server.jobs = append(server.jobs, child.job(cj))
	}
	recorder := record.NewFakeRecorder(1000)
	jm := &cronjob.ControllerV2{}
	set(jm, "recorder", recorder)
	set(jm, "jobControl", server)
	set(jm, "cronJobControl", server)
	set(jm, "now", func() time.Time { return now })

	known := append([]*batchv1.Job{}, server.jobs...)
	cleanupFinishedJobs(jm, context.Background(), cj, known)
	again, _, err := syncCronJob(jm, context.Background(), cj, known)
	if err != nil {
		answer.Events = append(answer.Events, "error: "+err.Error())
	}
	if again != nil {
		ms := again.Milliseconds()
		answer.Again = &ms
	}
	close(recorder.Events)
	for event := range recorder.Events {
		// Type, reason and message.
		answer.Events = append(answer.Events, strings.Fields(event)[1])
	}
	for _, active := range cj.Status.Active {
		answer.Active = append(answer.Active, active.Name)
	}
	if cj.Status.LastScheduleTime != nil {
		answer.Last = seconds(*cj.Status.LastScheduleTime)
	}
	if cj.Status.LastSuccessfulTime != nil {
		answer.Succeeded = seconds(*cj.Status.LastSuccessfulTime)
	}
}

func seconds(at metav1.Time) *int64 {
	unix := at.Unix()
	return &unix
}

// set gives an unexported field of the controller a value.
func set(jm *cronjob.ControllerV2, name string, value any) {
	at := reflect.ValueOf(jm).Elem().FieldByName(name)
	reflect.NewAt(at.Type(), unsafe.Pointer(at.UnsafeAddr())).Elem().Set(reflect.ValueOf(value))
}

func (c cronChild) job(cj *batchv1.CronJob) *batchv1.Job {
	job := &batchv1.Job{}
	job.Name, job.Namespace, job.UID = c.Name, cj.Namespace, types.UID(c.Name)
	job.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(cj, batchv1.SchemeGroupVersion.WithKind("CronJob"))}
	if c.Started != nil {
		job.Status.StartTime = &metav1.Time{Time: time.Unix(*c.Started, 0).UTC()}
	}
	if c.End != "" {
		job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobConditionType(c.End), Status: corev1.ConditionTrue}}
	}
	if c.End == string(batchv1.JobComplete) {
		job.Status.CompletionTime = &metav1.Time{Time: time.Unix(c.Ended, 0).UTC()}
	}
	return job
}

// cronServer stands in for the API server, and writes down what it is asked for.
type cronServer struct {
	cj     *batchv1.CronJob
	jobs   []*batchv1.Job
	answer *cronAnswer
}

func (s *cronServer) UpdateStatus(_ context.Context, cj *batchv1.CronJob) (*batchv1.CronJob, error) {
	return cj, nil
}

func (s *cronServer) GetCronJob(context.Context, string, string) (*batchv1.CronJob, error) {
	return s.cj.DeepCopy(), nil
}

func (s *cronServer) GetJob(_, name string) (*batchv1.Job, error) {
	for _, job := range s.jobs {
		if job.Name == name {
			return job, nil
		}
	}
	return nil, errors.NewNotFound(schema.GroupResource{Resource: "jobs"}, name)
}

func (s *cronServer) CreateJob(namespace string, job *batchv1.Job) (*batchv1.Job, error) {
	if _, err := s.GetJob(namespace, job.Name); err == nil {
		return nil, errors.NewAlreadyExists(schema.GroupResource{Resource: "jobs"}, job.Name)
	}
	job.UID = types.UID(job.Name)
	s.jobs = append(s.jobs, job)
	s.answer.Created = append(s.answer.Created, job.Name)
	return job, nil
}

func (s *cronServer) DeleteJob(_, name string) error {
	for i, job := range s.jobs {
		if job.Name == name {
			s.jobs = append(s.jobs[:i:i], s.jobs[i+1:]...)
		}
	}
	s.answer.Deleted = append(s.answer.Deleted, name)
	return nil
}
