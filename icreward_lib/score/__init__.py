"""People's own pictures and videos: read, judged by any reward or metric, ranked, reported."""
