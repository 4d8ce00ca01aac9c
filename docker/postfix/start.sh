#!/bin/sh
# Sets what the environment says, then runs Postfix in the foreground with its log on standard output.
set -eu
postconf -e "myhostname = ${MYHOSTNAME:?}" "relayhost = ${RELAYHOST:?}" \
  'myorigin = $myhostname' "mydestination =" "inet_interfaces = all" "mynetworks = 127.0.0.0/8 172.28.0.0/24" \
  "maillog_file = /dev/stdout" "smtp_dns_support_level = disabled" "compatibility_level = 3.6"
exec postfix start-fg
