package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// DescribeLogDirs: key 35, versions 1–4. There is one directory; a partition's size is that of its segments. What does not exist
// is left out, as in Kafka. 5 says whether a directory is closed to new partitions.
func init() {
	register(1, 4, "[ s *i32 ]", describeLogDirs)
}

func describeLogDirs(c *conn, req *kmsg.DescribeLogDirsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeLogDirsResponse()
	if !c.mayCluster(kmsg.ACLOperationDescribe) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		return resp
	}
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir = c.s.LogDir
	dir.UsableBytes, dir.TotalBytes = c.s.Engine.Volume()
	wanted := map[string]once[int32]{}
	for _, t := range req.Topics {
		if wanted[t.Topic] == nil {
			wanted[t.Topic] = once[int32]{}
		}
		for _, p := range t.Partitions {
			wanted[t.Topic].first(p)
		}
	}
	for _, t := range c.s.listTopics() {
		parts, named := wanted[t.Name]
		if req.Topics != nil && !named {
			continue
		}
		rt, err := c.s.describeSizes(t, req.Topics == nil, parts)
		if err != nil {
			continue // deleted meanwhile
		}
		dir.Topics = append(dir.Topics, rt)
	}
	resp.Dirs = append(resp.Dirs, dir)
	return resp
}

func (s *Server) describeSizes(t eventlog.Topic, all bool, parts once[int32]) (rt kmsg.DescribeLogDirsResponseDirTopic, err error) {
	rt = kmsg.NewDescribeLogDirsResponseDirTopic()
	rt.Topic = t.Name
	sizes, err := s.Engine.PartSizes(t.ID)
	if err != nil {
		return rt, err
	}
	for i, size := range sizes {
		if _, named := parts[int32(i)]; all || named {
			rp := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
			rp.Partition, rp.Size = int32(i), size
			rt.Partitions = append(rt.Partitions, rp)
		}
	}
	return rt, nil
}
