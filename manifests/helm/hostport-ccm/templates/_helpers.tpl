{{/* The objects of the manifests in a folder of files, in the namespace of the release. */}}
{{- define "hostport-ccm.manifests" -}}
{{- $root := index . 0 }}
{{- range $path, $_ := $root.Files.Glob (printf "files/%s/*.yaml" (index . 1)) }}
{{- if not (has (base $path) (list "kustomization.yaml" "namespace.yaml" "serviceaccount.yaml" "deployment.yaml")) }}
---
{{ $root.Files.Get $path | replace "hostport-system" $root.Release.Namespace }}
{{- end }}
{{- end }}
{{- end }}

{{/* The cloud config, complete. */}}
{{- define "hostport-ccm.cloudConfig" -}}
{{- $proxyImage := printf "%s:%s" .Values.proxyImage.repository (.Values.proxyImage.tag | default .Chart.AppVersion) }}
{{- $added := dict "proxyImage" $proxyImage "namespace" .Release.Namespace }}
{{- $loadBalancer := merge $added (.Values.cloudConfig.loadBalancer | default dict) }}
{{- $head := dict "apiVersion" "hostport-ccm.io/v1alpha1" "kind" "CloudConfig" "loadBalancer" $loadBalancer }}
{{- merge $head .Values.cloudConfig | toYaml }}
{{- end }}
