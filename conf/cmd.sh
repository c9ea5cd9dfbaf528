# shellcheck shell=bash disable=SC2034
# Where jobs run. For a cluster, change cmd_backend here (or give --cmd_backend), and the names of queues and resources
# in conf/queue.conf or conf/slurm.conf. Options of the runners may follow a command, for example
# cuda_cmd='slurm.pl --config conf/slurm.conf --mem 16G --time 36:00:00'.

cmd_backend=${cmd_backend:-local} # local | sge | slurm

case ${cmd_backend} in
    local)
        train_cmd=run.pl  # stages 2, 5 and 7, and training without a GPU
        cuda_cmd=run.pl   # training and decoding with --ngpu 1 or more, and stage 2 of --feats_type stored with it
        decode_cmd=run.pl # decoding without a GPU
        ;;
    sge)
        train_cmd='queue.pl --config conf/queue.conf'
        cuda_cmd='queue.pl --config conf/queue.conf'
        decode_cmd='queue.pl --config conf/queue.conf'
        ;;
    slurm)
        train_cmd='slurm.pl --config conf/slurm.conf'
        cuda_cmd='slurm.pl --config conf/slurm.conf'
        decode_cmd='slurm.pl --config conf/slurm.conf'
        ;;
    *)
        echo "conf/cmd.sh: unknown cmd_backend '${cmd_backend}': local, sge or slurm" >&2
        return 2
        ;;
esac
