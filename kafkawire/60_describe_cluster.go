package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeCluster: key 60, versions 0–2. One broker, which is the controller of itself.
func init() {
	register(0, 2, "i8 i8:1+ i8:2+", describeCluster)
}

const (
	endpointBrokers     = 1
	endpointControllers = 2
)

func describeCluster(c *conn, req *kmsg.DescribeClusterRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeClusterResponse()
	resp.ClusterID, resp.ControllerID, resp.EndpointType = c.s.Engine.ClusterID(), c.s.NodeID, endpointBrokers
	if req.Version >= 1 && req.EndpointType != endpointBrokers {
		resp.EndpointType = req.EndpointType
		e := refuse(kerr.MismatchedEndpointType, "this is a broker's listener")
		if req.EndpointType != endpointControllers {
			e = refuse(kerr.UnsupportedEndpointType, "endpoints are brokers (1) or controllers (2)")
		}
		e.set(&resp.ErrorCode, &resp.ErrorMessage)
		return resp
	}
	b := kmsg.NewDescribeClusterResponseBroker()
	b.NodeID = c.s.NodeID
	b.Host, b.Port = c.advertised()
	resp.Brokers = append(resp.Brokers, b)
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = c.operations(kmsg.ACLResourceTypeCluster, clusterName)
	}
	return resp
}
