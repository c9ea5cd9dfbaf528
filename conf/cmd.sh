# shellcheck shell=bash disable=SC2034
# Where jobs run. Moving to a cluster: change the word here (or give --cmd_backend), and conf/queue.conf or
# conf/slurm.conf for what the site calls its queues and resources.

cmd_backend=${cmd_backend:-local} # local | sge | slurm

case ${cmd_backend} in
    local)
        train_cmd=run.pl  # CPU jobs
        cuda_cmd=run.pl   # jobs that may be given --gpu
        decode_cmd=run.pl # decoding and scoring
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
