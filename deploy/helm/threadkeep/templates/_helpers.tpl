{{- define "threadkeep.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "threadkeep.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "threadkeep.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "threadkeep.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "threadkeep.selector" -}}
app.kubernetes.io/name: {{ include "threadkeep.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "threadkeep.labels" -}}
{{ include "threadkeep.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "threadkeep.image" -}}
{{- $repository := required "image.repository: name the image with your graphs" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "threadkeep.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "threadkeep.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "threadkeep.databaseSecret" -}}
{{- if .Values.cloudnativepg.enabled -}}
{{- printf "%s-postgres-app" (include "threadkeep.fullname" .) -}}
{{- else -}}
{{- required "database.existingSecret: name a secret with the address of Postgres, or set cloudnativepg.enabled" .Values.database.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "threadkeep.databaseKey" -}}
{{- ternary "uri" .Values.database.key .Values.cloudnativepg.enabled -}}
{{- end -}}

{{- define "threadkeep.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "threadkeep.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The pod of a role: a dict of `root` (the chart's context), `role` (api or worker) and `values` (of that role). */}}
{{- define "threadkeep.pod" -}}
{{- $root := .root -}}
{{- if and (eq $root.Values.auth.type "none") (not $root.Values.auth.allowUnauthenticated) -}}
{{- fail "auth.type: none lets everybody in, and needs auth.allowUnauthenticated" -}}
{{- end -}}
{{- if gt (int $root.Values.lingerSeconds) (int $root.Values.drainSeconds) -}}
{{- fail "lingerSeconds is a part of drainSeconds, and can't be more" -}}
{{- end -}}
metadata:
  labels:
    {{- include "threadkeep.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
    {{- with $root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $root.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "threadkeep.serviceAccount" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # Above the time that runs get to end.
  terminationGracePeriodSeconds: {{ add $root.Values.drainSeconds 20 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "threadkeep.podSecurityContext" $root | nindent 4 }}
  {{- if $root.Values.topologySpread.enabled }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: {{ $root.Values.topologySpread.topologyKey }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "threadkeep.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ .role }}
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "threadkeep.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ .role }}
  {{- end }}
  {{- with $root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  containers:
    - name: {{ .role }}
      image: {{ include "threadkeep.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [serve]
      env:
        {{- if $root.Values.split }}
        - name: THREADKEEP_ROLE
          value: {{ .role }}
        {{- end }}
        - name: THREADKEEP_DATABASE_URI
          valueFrom:
            secretKeyRef:
              name: {{ include "threadkeep.databaseSecret" $root }}
              key: {{ include "threadkeep.databaseKey" $root }}
        {{- if and $root.Values.database.directKey (not $root.Values.cloudnativepg.enabled) }}
        - name: THREADKEEP_DATABASE_DIRECT_URI
          valueFrom:
            secretKeyRef:
              name: {{ include "threadkeep.databaseSecret" $root }}
              key: {{ $root.Values.database.directKey }}
        {{- end }}
        - name: THREADKEEP_HOST
          value: 0.0.0.0
        - name: THREADKEEP_PORT
          value: "2024"
        - name: THREADKEEP_METRICS_PORT
          value: {{ $root.Values.metrics.port | quote }}
        - name: THREADKEEP_AUTH_TYPE
          value: {{ $root.Values.auth.type }}
        {{- if $root.Values.auth.allowUnauthenticated }}
        - name: THREADKEEP_ALLOW_UNAUTHENTICATED
          value: "true"
        {{- end }}
        - name: THREADKEEP_LOG_JSON
          value: "true"
        - name: THREADKEEP_DRAIN
          value: {{ $root.Values.drainSeconds | quote }}
        - name: THREADKEEP_LINGER
          value: {{ $root.Values.lingerSeconds | quote }}
        {{- with $root.Values.project }}
        - name: THREADKEEP_PROJECT
          value: {{ . | quote }}
        {{- end }}
        {{- if and $root.Values.worker.runSlots (or (eq .role "worker") (not $root.Values.split)) }}
        - name: THREADKEEP_RUN_SLOTS
          value: {{ $root.Values.worker.runSlots | quote }}
        {{- end }}
        {{- range $name, $value := $root.Values.env }}
        - name: {{ $name }}
          value: {{ $value | quote }}
        {{- end }}
      {{- with $root.Values.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: 2024
        - name: metrics
          containerPort: {{ $root.Values.metrics.port }}
      startupProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 1
      resources:
        {{- toYaml .values.resources | nindent 8 }}
      securityContext:
        {{- include "threadkeep.securityContext" $root | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 256Mi
{{- end -}}

{{/* The Deployment of a role. */}}
{{- define "threadkeep.deployment" -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "threadkeep.fullname" $root }}-{{ .role }}
  labels:
    {{- include "threadkeep.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
spec:
  {{- if not .scaled }}
  replicas: {{ .values.replicas }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "threadkeep.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .role }}
  strategy:
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  template:
    {{- include "threadkeep.pod" . | nindent 4 }}
{{- end -}}

{{- define "threadkeep.podDisruptionBudget" -}}
{{- $root := .root -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "threadkeep.fullname" $root }}-{{ .role }}
  labels:
    {{- include "threadkeep.labels" $root | nindent 4 }}
spec:
  maxUnavailable: {{ .values.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "threadkeep.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "threadkeep.cpuAutoscaler" -}}
{{- $root := .root -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "threadkeep.fullname" $root }}-{{ .role }}
  labels:
    {{- include "threadkeep.labels" $root | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "threadkeep.fullname" $root }}-{{ .role }}
  minReplicas: {{ .values.autoscaling.minReplicas }}
  maxReplicas: {{ .values.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ .values.autoscaling.cpuPercent }}
  behavior:
    scaleDown:
      # A process that stops hands its runs over, so few go at a time.
      stabilizationWindowSeconds: 300
      policies:
        - type: Pods
          value: 1
          periodSeconds: 60
{{- end -}}
