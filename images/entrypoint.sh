#!/bin/bash
# What Spark on Kubernetes starts: `driver ARGUMENTS...`, `executor`; anything else is run as it is.
# Contract: Spark's own resource-managers/kubernetes entrypoint.sh of 3.5 (variables SPARK_*), without its running as root.
set -euo pipefail

# The Cassandra connector reads Java stores only: make one of the binding's CA. The password guards a public certificate.
ca=${SERVICE_BINDING_ROOT:-/bindings}/cassandra/ca.crt
trust_store() {
	[ -f "$ca" ] || return 0
	rm -f "$HEADRACE_CASSANDRA_TRUSTSTORE"
	"$JAVA_HOME/bin/keytool" -importcert -noprompt -alias ca -file "$ca" -storetype PKCS12 -storepass changeit \
		-keystore "$HEADRACE_CASSANDRA_TRUSTSTORE" 2>/dev/null
}
export HEADRACE_CASSANDRA_TRUSTSTORE=${HEADRACE_CASSANDRA_TRUSTSTORE:-/tmp/cassandra-ca.p12}

case ${1:-} in
driver)
	shift
	trust_store
	exec /usr/bin/tini -s -- "$SPARK_HOME/bin/spark-submit" \
		--conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \
		--conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" \
		--deploy-mode client "$@"
	;;
executor)
	trust_store
	options=()
	for name in "${!SPARK_JAVA_OPT_@}"; do options+=("${!name}"); done
	exec /usr/bin/tini -s -- "$JAVA_HOME/bin/java" "${options[@]}" \
		"-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \
		-cp "${SPARK_CONF_DIR:-$SPARK_HOME/conf}:${SPARK_CLASSPATH:-}:$SPARK_HOME/jars/*:$PWD" \
		org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
		--driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
		--app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
		--resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
	;;
*) exec "$@" ;;
esac
