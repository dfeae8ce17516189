#!/bin/sh
# Make the buckets, and the job's own user, whose policy lets it read and add runs, read data, and no
# more.
set -eu
mc mb --quiet --ignore-existing store/models store/data
mc admin policy create store training "$POLICY_FILE"
# By standard input: an argument could be seen by every user of the machine.
printf '%s\n%s\n' "$JOB_ACCESS_KEY" "$JOB_SECRET_KEY" | mc admin user add store >/dev/null
if ! mc admin policy entities store --policy training | grep -qwF "$JOB_ACCESS_KEY"; then
  mc admin policy attach store training --user "$JOB_ACCESS_KEY" >/dev/null
fi
echo "the job's user may read and add in the bucket 'models', and read in 'data', below 'fashion-mnist/'"
