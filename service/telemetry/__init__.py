"""What a gateway tells of itself: metrics, access log, traces; joined over workers."""
