#!/bin/bash
# Entry point for Spark on Kubernetes: `driver ARGUMENTS...` or `executor`; any other command runs unchanged.
# It follows the contract of Spark 3.5's resource-managers/kubernetes entrypoint.sh (variables SPARK_*), but does not run as root.
set -euo pipefail

export HEADRACE_CASSANDRA_TRUSTSTORE=${HEADRACE_CASSANDRA_TRUSTSTORE:-/tmp/cassandra-ca.p12}

case ${1:-} in
driver)
	shift
	exec /usr/bin/tini -s -- "$SPARK_HOME/bin/spark-submit" \
		--conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \
		--conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" \
		--deploy-mode client "$@"
	;;
executor)
	# The Cassandra connector reads only Java key stores: create one from the CA of the binding, as the driver's session does.
	ca=${SERVICE_BINDING_ROOT:-/bindings}/cassandra/ca.crt
	[ ! -f "$ca" ] || python3 -m headrace.access.truststore "$ca" "$HEADRACE_CASSANDRA_TRUSTSTORE"
	options=()
	for name in "${!SPARK_JAVA_OPT_@}"; do options+=("${!name}"); done
	exec /usr/bin/tini -s -- "$JAVA_HOME/bin/java" "${options[@]}" \
		"-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \
		@/opt/classes/java.args \
		org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
		--driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
		--app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
		--resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
	;;
*) exec "$@" ;;
esac
