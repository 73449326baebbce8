package manifests

import (
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"
)

// oldestKubernetes is the oldest version whose API server accepts the policies.
var oldestKubernetes = version.MajorMinor(1, 30)

// compile compiles a policy as the API server does when somebody writes it: see compilePolicy in
// k8s.io/apiserver/pkg/admission/plugin/policy/validating.
func compile(t *testing.T, p *admissionv1.ValidatingAdmissionPolicy) validating.Validator {
	t.Helper()
	const mode = environment.NewExpressions
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(oldestKubernetes))
	if err != nil {
		t.Fatal(err)
	}
	withAuthorizer, inMessages := cel.OptionalVariableDeclarations{HasAuthorizer: true}, cel.OptionalVariableDeclarations{}
	for _, v := range p.Spec.Variables {
		if result := compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, withAuthorizer, mode); result.Error != nil {
			t.Fatalf("variable %s: %v", v.Name, result.Error)
		}
	}
	var conditions, validations, messages []cel.ExpressionAccessor
	for i := range p.Spec.MatchConditions {
		conditions = append(conditions, (*matchconditions.MatchCondition)(&p.Spec.MatchConditions[i]))
	}
	for _, v := range p.Spec.Validations {
		validations = append(validations, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message})
		var message cel.ExpressionAccessor
		if v.MessageExpression != "" {
			message = &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}
		}
		messages = append(messages, message)
	}
	return validating.NewValidator(
		compiler.CompileCondition(validations, withAuthorizer, mode),
		matchconditions.NewMatcher(compiler.CompileCondition(conditions, withAuthorizer, mode), p.Spec.FailurePolicy, "policy", "validate", p.Name),
		compiler.CompileCondition(nil, withAuthorizer, mode),
		compiler.CompileCondition(messages, inMessages, mode),
		p.Spec.FailurePolicy, nil)
}

// serviceWrite is a request that turns old into svc. old is nil for a new Service, svc for a deleted
// one. An empty subresource is the Service itself.
type serviceWrite struct {
	user        user.Info
	subresource string
	old, svc    *v1.Service
}

// refusals returns the messages with which a policy refuses a request; none if it admits the request.
func refusals(t *testing.T, v validating.Validator, authz authorizer.Authorizer, w serviceWrite) []string {
	t.Helper()
	kind, resource := v1.SchemeGroupVersion.WithKind("Service"), v1.SchemeGroupVersion.WithResource("services")
	operation, object, before, named := admission.Update, runtime.Object(w.svc), runtime.Object(w.old), w.svc
	switch {
	case w.old == nil:
		operation, before = admission.Create, nil
	case w.svc == nil:
		operation, object, named = admission.Delete, nil, w.old
	}
	if w.user == nil {
		w.user = &user.DefaultInfo{}
	}
	attributes := &admission.VersionedAttributes{
		Attributes:    admission.NewAttributesRecord(object, before, kind, named.Namespace, named.Name, resource, w.subresource, operation, nil, false, w.user),
		VersionedKind: kind,
	}
	if w.svc != nil {
		attributes.VersionedObject.Set(w.svc)
	}
	if w.old != nil {
		attributes.VersionedOldObject.Set(w.old)
	}
	result := v.Validate(t.Context(), resource, attributes, nil, nil, celconfig.RuntimeCELCostBudget, authz)
	var messages []string
	for _, d := range result.Decisions {
		if d.Evaluation == validating.EvalError {
			t.Fatalf("evaluation failed: %s", d.Message)
		}
		if d.Action == validating.ActionDeny {
			messages = append(messages, d.Message)
		}
	}
	return messages
}
