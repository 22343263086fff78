"""What a gateway reports about itself: metrics, access log, traces; joined over workers."""
