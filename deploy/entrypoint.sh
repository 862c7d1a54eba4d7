#!/bin/bash
# Runs what it is told to. Spark on Kubernetes says `executor`, and the rest in variables.
set -euo pipefail
umask 027
[[ ${1-} == executor ]] || exec "$@"

options=()
while name=SPARK_JAVA_OPT_${#options[@]} && [[ -v $name ]]; do
    options+=("${!name}")
done
cd "$(mktemp -d)" # where Spark puts the jars that the driver hands out
exec java "${options[@]}" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \
    -cp "${SPARK_CONF_DIR:+$SPARK_CONF_DIR:}$SPARK_HOME/jars/*" \
    org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
    --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" \
    --cores "$SPARK_EXECUTOR_CORES" --app-id "$SPARK_APPLICATION_ID" \
    --hostname "$SPARK_EXECUTOR_POD_IP" --podName "$SPARK_EXECUTOR_POD_NAME" \
    --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID"
