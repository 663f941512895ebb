// Command health says what Argo CD, Flux and kstatus make of objects: with Argo CD's Lua interpreter under its limits, and with
// Flux' and kstatus' own code. It answers each line of JSON on standard input, a question, with one on standard output.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	fluxcel "github.com/fluxcd/pkg/runtime/cel"

	"github.com/fluxcd/pkg/apis/kustomize"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	luajson "layeh.com/gopher-json"
	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// question is an object, and what it is to be judged by.
type question struct {
	Object json.RawMessage
	// Lua is a script of Argo CD that returns a table.
	Lua string
	// Flux is an item of healthCheckExprs.
	Flux *kustomize.HealthCheckExpressions
}

type answer struct {
	Kstatus string `json:"kstatus"`
	// Returned is what the script returned.
	Returned json.RawMessage `json:"returned,omitempty"`
	Flux     string          `json:"flux,omitempty"`
}

func main() {
	in, out := bufio.NewScanner(os.Stdin), bufio.NewWriter(os.Stdout)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		answered, err := judge(in.Bytes())
		if err == nil {
			err = json.NewEncoder(out).Encode(answered)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "health: %v: %.2000s\n", err, in.Text())
			os.Exit(1)
		}
	}
	if in.Err() != nil || out.Flush() != nil {
		os.Exit(1)
	}
}

func judge(line []byte) (*answer, error) {
	var asked question
	if err := json.Unmarshal(line, &asked); err != nil {
		return nil, err
	}
	object := &unstructured.Unstructured{}
	// Numbers as the clients of both tools have them.
	if err := object.UnmarshalJSON(asked.Object); err != nil {
		return nil, err
	}
	result, err := kstatus.Compute(object)
	if err != nil {
		return nil, err
	}
	answered := &answer{Kstatus: result.Status.String()}
	if asked.Lua != "" {
		if answered.Returned, err = run(asked.Lua, object.Object); err != nil {
			return nil, err
		}
	}
	if asked.Flux != nil {
		evaluator, err := fluxcel.NewStatusEvaluator(asked.Flux)
		if err != nil {
			return nil, err
		}
		// Where an expression cannot be evaluated, Flux' poller has the status Unknown, and looks again.
		answered.Flux = kstatus.UnknownStatus.String()
		if found, err := evaluator.Evaluate(context.Background(), object); err == nil {
			answered.Flux = found.Status.String()
		}
	}
	return answered, nil
}

// run runs a script as argo-cd/util/lua does unless it is told to open more: no libraries but these, for a second at most.
// A script that uses os is refused here, as ours need no clock.
func run(script string, object map[string]any) (json.RawMessage, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(ctx)
	state.SetGlobal("obj", toLua(state, object))
	if err := state.DoString(script); err != nil {
		return nil, err
	}
	returned := state.Get(-1)
	if returned.Type() != lua.LTTable {
		return nil, fmt.Errorf("the script returned a %s, not a table", returned.Type())
	}
	return luajson.Encode(returned)
}

// toLua is luajson.DecodeValue with the integers that objects from an API server have.
func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case int64:
		return lua.LNumber(value)
	case []any:
		table := state.CreateTable(len(value), 0)
		for _, item := range value {
			table.Append(toLua(state, item))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(value))
		for key, item := range value {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	default:
		return luajson.DecodeValue(state, value)
	}
}
