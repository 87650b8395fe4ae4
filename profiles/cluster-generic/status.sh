#!/bin/sh
# What has become of a PBS job: running, success or failed. -x finds finished jobs, where the site keeps their history.
state=$(qstat -x -f "$1")
case $? in
  0) ;;
  153) echo "qstat knows no job $1: status.sh needs PBS to keep the history of jobs" >&2; echo failed; exit ;;
  *) echo running; exit ;; # an unanswered qstat says nothing about the job
esac
case $(echo "$state" | sed -n 's/^ *job_state = //p') in
  F) [ "$(echo "$state" | sed -n 's/^ *Exit_status = //p')" = 0 ] && echo success || echo failed ;;
  *) echo running ;;
esac
