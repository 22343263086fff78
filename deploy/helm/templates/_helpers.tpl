{{- define "munet.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "munet.labels" -}}
app.kubernetes.io/name: {{ include "munet.name" . }}
{{- end }}

{{- define "munet.store" -}}
{{ if .Values.store.claim.enabled }}/store{{ else }}{{ required "store.url: a directory or a URL" .Values.store.url }}{{ end }}
{{- end }}

{{- define "munet.claim" -}}
{{ .Values.store.claim.existing | default (printf "%s-store" (include "munet.name" .)) }}
{{- end }}

{{- define "munet.serviceAccount" -}}
{{- if or .Values.serviceAccount.create .Values.serviceAccount.name }}
serviceAccountName: {{ .Values.serviceAccount.name | default (include "munet.name" .) }}
{{- end }}
{{- end }}

{{- define "munet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1034
runAsGroup: 1034
fsGroup: 1034
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "munet.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "munet.credentials" -}}
- secretRef: {name: {{ .Values.store.secret }}, optional: true}
{{- end }}

{{- define "munet.placing" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The pod of a job. It takes: top, name, image, args; command, env, size and resources. */}}
{{- define "munet.job" -}}
{{- $top := .top -}}
{{- with $top.Values.podLabels }}
metadata:
  labels: {{ toYaml . | nindent 4 }}
{{- end }}
spec:
  automountServiceAccountToken: false
  {{- include "munet.serviceAccount" $top | nindent 2 }}
  restartPolicy: Never
  securityContext: {{ include "munet.podSecurity" $top | nindent 4 }}
  {{- include "munet.placing" $top | nindent 2 }}
  containers:
    - name: {{ .name }}
      image: {{ .image.repository }}:{{ .image.tag }}
      {{- if .ofStore }}
      command: ["python", "-m", "model_store"]
      workingDir: /home/bentoml/bento/src
      {{- end }}
      args: {{ toYaml .args | nindent 8 }}
      envFrom: {{ include "munet.credentials" $top | nindent 8 }}
      env:
        - name: MUNET_STORE
          valueFrom: {configMapKeyRef: {name: {{ include "munet.name" $top }}, key: MUNET_STORE}}
        {{- range $name, $value := .env }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
        - {name: MUNET_CACHE, value: /tmp/blobs}
        - {name: MUNET_CACHE_BYTES, value: 2GiB}
        - {name: HOME, value: /tmp}
      resources: {{ toYaml .resources | nindent 8 }}
      securityContext: {{ include "munet.security" $top | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if $top.Values.store.claim.enabled }}
        - {name: store, mountPath: /store}
        {{- end }}
  volumes:
    - {name: tmp, emptyDir: {sizeLimit: {{ .size }}}}
    {{- if $top.Values.store.claim.enabled }}
    - {name: store, persistentVolumeClaim: {claimName: {{ include "munet.claim" $top }}}}
    {{- end }}
{{- end }}

{{- define "munet.evolution" -}}
{{- $e := .Values.evolution -}}
{{- $env := dict "MUNET_DATA" $e.data -}}
{{- $args := concat (list "evolve" "--budget" $e.budget) $e.tasks -}}
{{ include "munet.job" (dict "top" . "name" "evolution" "image" $e.image "args" $args "env" $env "size" "20Gi" "resources" $e.resources) }}
{{- end }}
